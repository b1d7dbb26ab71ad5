package mqtt

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// stranger is a broker that is not ours.
func stranger(t *testing.T, addr string) func() {
	t.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	ledger := &auth.Ledger{Auth: auth.AuthRules{{Username: "edge", Password: "secret", Allow: true}, {Username: "app", Password: "secret", Allow: true}}}
	if err := s.AddHook(new(auth.Hook), &auth.Options{Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: addr})); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return func() { _ = s.Close() }
}

// With a broker that is there already, requests are answered by it; and again when it has been away.
func TestAnExternalBrokerIsServedAndReturnedTo(t *testing.T) {
	addr := freePort(t)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := stranger(t, addr)
	r := start(t, nil, func(c *Config) {
		c.Mode, c.Server = External, Server{URL: "tcp://" + addr, User: "edge", PasswordFile: password}
	})
	eventually(t, "the wrong password is refused", func() bool { return testutil.ToFloat64(r.metrics.ext.WithLabelValues("failed")) > 0 })
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		eventually(t, "the broker is reached", func() bool { return testutil.ToFloat64(r.metrics.connections) == 1 })
		c := dial(t, as(options(addr, "app"), "app", "secret"))
		c.subscribe(t, "$hw/events/+/+/+/updated", 1)
		c.subscribe(t, "$hw/events/device/+/+/twin/+/result", 1)
		c.publish(t, pump+"twin/update", 1, false, fmt.Sprintf(`{"event_id":"%d","twin":{"speed":{}}}`, i))
		if m := c.next(t); m.Topic() != pump+"twin/update/result" || !strings.Contains(string(m.Payload()), fmt.Sprintf(`"event_id":"%d"`, i)) {
			t.Errorf("expected the result, found %s on %s", m.Payload(), m.Topic())
		}
		c.publish(t, pump+"twin/update", 1, false, make([]byte, 10<<20))
		if m := c.next(t); !strings.Contains(string(m.Payload()), `"code":400`) {
			t.Errorf("expected 10 MB to be answered with 400, found %s", m.Payload())
		}
		r.Updated("plant", "pump")
		c.expect(t, pump+"updated", `{"event_id":"","timestamp":1700000000123,"attributes":{}}`)
		c.Disconnect(0)
		stop()
		eventually(t, "the loss is seen", func() bool { return testutil.ToFloat64(r.metrics.connections) == 0 })
		if i == 0 {
			stop = stranger(t, addr)
		}
	}
	if r.devices.count() != 2 {
		t.Errorf("expected 2 updates, found %d", r.devices.count())
	}
}

// A request that an external broker retained would be made again at each connect.
func TestARetainedRequestIsIgnored(t *testing.T) {
	addr := freePort(t)
	defer stranger(t, addr)()
	c := dial(t, as(options(addr, "app"), "app", "secret"))
	c.publish(t, pump+"twin/update", 1, true, `{"twin":{"speed":{}}}`)
	c.publish(t, "x", 1, false, "") // once this is acknowledged, that one has been handed on to all who were there
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, nil, func(c *Config) {
		c.Mode, c.Server = External, Server{URL: "tcp://" + addr, User: "edge", PasswordFile: password}
	})
	eventually(t, "it is counted", func() bool { return testutil.ToFloat64(r.metrics.denied.WithLabelValues("retained")) == 1 })
	if r.devices.count() != 0 {
		t.Error("expected no update")
	}
}

func TestAWrongConfigurationSaysEachFault(t *testing.T) {
	c := Config{Node: "a/b", Mode: Internal, Broker: Broker{Listen: "0.0.0.0:1883", Anonymous: true, ListenTLS: "x",
		Users: []User{{Name: "a", Hash: "plain", ACL: []Access{{Filter: "a#"}}}, {Name: "a"}}}}
	err := c.Validate()
	for _, want := range []string{"node:", "maxRequest:", "anonymous:", "listenTLS: expected host", "listenTLS: expected a cert", "users[0]:", "users[0].acl[0]:", "users[1]:", "limits.queue:", "limits.stall:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected a fault that begins with %q, found %v", want, err)
		}
	}
	for _, url := range []string{"", "http://a:1", "tcp://a", ":"} {
		c := Config{Node: "n", Mode: External, MaxRequest: 1, Server: Server{URL: url}}
		if c.Validate() == nil {
			t.Errorf("expected server %q to be refused", url)
		}
	}
	ok := Default("edge-1")
	if err := ok.Validate(); err != nil {
		t.Error(err)
	}
}

func TestAPortThatIsTakenIsAnError(t *testing.T) {
	r := start(t, nil, nil)
	cfg := Default("edge-1")
	cfg.Broker.Listen = r.Address()
	s := New(cfg, Deps{Devices: &plant{}, Log: quietLog(), Registry: prometheus.NewRegistry(), Now: clock})
	if err := s.Start(context.Background()); err == nil {
		t.Error("expected Start to fail")
	}
}
