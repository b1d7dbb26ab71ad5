package keadm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

// rejoin is a machine on which a join left its files, and the same join once more.
type rejoin struct {
	f      joinFlags
	cfg    *v1alpha1.EdgeCore
	p      *preflight
	bearer trust.Bearer
	out    bytes.Buffer
}

func newRejoin(t *testing.T) *rejoin {
	t.Helper()
	ca := newCA(t, time.Now)
	r := &rejoin{bearer: trust.Bearer{Pin: pki.Pin(ca.Cert())}}
	r.f = joinFlags{edgeFiles: node(t, ca, "edge-1", time.Hour), name: "edge-1"}
	r.cfg = edgecore(t, r.f.edgeFiles, allWell, joinPort(t, ca))
	_, r.p = sound(t)
	r.p.file = r.f.config
	return r
}

func (r *rejoin) earlier(t *testing.T) error {
	t.Helper()
	return r.f.earlier(t.Context(), IO{Out: &r.out, Err: &r.out, Now: time.Now}, r.p, r.bearer)
}

func TestAJoinThatDidNotFinishIsGoneOnWith(t *testing.T) {
	r := newRejoin(t)
	if err := r.earlier(t); err != nil || r.out.Len() > 0 {
		t.Errorf("without edgecore: %v\n%s", err, &r.out)
	}
	runs(t, r.p.root, "9", "edgecore", "--config", r.f.config)
	r.cfg.Cloud.Servers = []string{"127.0.0.1:1"}
	r.cfg.Cloud.JoinPort = 1
	writeEdgeConfig(t, r.f.edgeFiles, r.cfg)
	// The address of the status is in use.
	r.p.config.Metrics.BindAddress = r.cfg.Metrics.BindAddress
	if _, ok := names(r.p.run(t.Context()))["port"]; !ok {
		t.Error("the test's edgecore holds no port")
	}
	if err := r.earlier(t); err != nil || !strings.Contains(r.out.String(), "going on with the join of node edge-1") {
		t.Fatalf("%v\n%s", err, &r.out)
	}
	for _, name := range []string{"port", "other-kubelet"} {
		if f, ok := names(r.p.run(t.Context()))[name]; ok {
			t.Errorf("found %+v", f)
		}
	}
}

func TestAMachineThatHasJoinedIsNotJoinedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(r *rejoin)
		want []string
	}{
		"it is Ready":                              {func(*rejoin) {}, []string{"has joined already", `node "edge-1"`, "edgecore runs as process 9"}},
		"under another name":                       {func(r *rejoin) { r.f.name = "edge-2" }, []string{`is node "edge-1"`, `found --edgenode-name "edge-2"`}},
		"of another CloudCore":                     {func(r *rejoin) { r.bearer.Pin = strings.Repeat("ab", 32) }, []string{"of another CloudCore", strings.Repeat("ab", 32)}},
		"with a configuration that cannot be read": {func(r *rejoin) { put(t, "/", r.f.config, "kind: Nothing\n") }, []string{"cannot be read", "mend or remove it"}},
	} {
		r := newRejoin(t)
		runs(t, r.p.root, "9", "edgecore", "--config", r.f.config)
		c.harm(r)
		err := r.earlier(t)
		if err == nil || r.out.Len() > 0 {
			t.Errorf("%s: %v\n%s", name, err, &r.out)
			continue
		}
		if name != "with a configuration that cannot be read" {
			c.want = append(c.want, "'keadm reset edge --config "+r.f.config+"'")
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: expected %q in: %v", name, w, err)
			}
		}
	}
	if got := resetLine(defaultConfig); got != "'keadm reset edge'" {
		t.Errorf("with the default configuration: %s", got)
	}
}

func TestWaitingForANodeObeysTheJoinPort(t *testing.T) {
	ca := newCA(t, time.Now)
	asked := 0
	cloud := joinPortWith(t, ca, join.PathNode, func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
			_ = json.NewEncoder(w).Encode(join.Refusal{Reason: "busy", Message: "ask later"})
			return
		}
		_ = json.NewEncoder(w).Encode(join.State{Ready: true})
	})
	f := joinFlags{edgeFiles: node(t, ca, "edge-1", time.Hour), name: "edge-1", timeout: 20 * time.Second}
	cfg := edgecore(t, f.edgeFiles, allWell, cloud)
	ports, err := joinPortsOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out, said bytes.Buffer
	start := time.Now()
	if err := f.waitReady(t.Context(), IO{Out: &out, Err: &said, Now: time.Now}, nil, cfg, ports); err != nil || asked != 2 || time.Since(start) < 2*time.Second || said.Len() > 0 {
		t.Errorf("asked %d times in %s, %v\n%s", asked, time.Since(start), err, &said)
	}
}

func TestAJoinThatIsToWaitCanBeInterrupted(t *testing.T) {
	ca := newCA(t, time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	cloud := joinPortWith(t, ca, join.PathJoin, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(join.Refusal{Reason: "busy", Message: "ask later"})
	})
	f := joinFlags{edgeFiles: node(t, ca, "edge-1", time.Hour), name: "edge-1"}
	ports, err := joinPortsOf(edgecore(t, f.edgeFiles, allWell, cloud))
	if err != nil {
		t.Fatal(err)
	}
	// The user loses patience when told to wait.
	w := IO{Out: io.Discard, Err: onWrite(cancel), Now: time.Now}
	if _, err := f.ask(ctx, w, ports, trust.Bearer{Pin: pki.Pin(ca.Cert())}, nil, ""); !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "ask later") {
		t.Errorf("%v", err)
	}
}

// onWrite calls itself at each write.
type onWrite func()

func (f onWrite) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

func TestAWaitThatFailsShowsTheLog(t *testing.T) {
	s := &service{kind: serviceProcess, name: "cloudcore", config: "/c.yaml", state: t.TempDir()}
	put(t, s.state, "cloudcore.log", strings.Repeat("started again\n", 9)+"listen tcp :10000: address already in use\n")
	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Metrics.BindAddress = busy.Listener.Addr().String()
	var out bytes.Buffer
	err := s.waitReady(t.Context(), IO{Out: &out, Err: &out}, cfg, 10*time.Millisecond)
	if err == nil || !strings.HasSuffix(err.Error(), "("+s.logFile()+") ends:\n"+strings.Repeat("  started again\n", 4)+"  listen tcp :10000: address already in use\nmend what it says, and run 'keadm init' again; --set changes its configuration, such as a port") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(s.state, "cloudcore.log")); err != nil {
		t.Fatal(err)
	}
	if err := s.waitReady(t.Context(), IO{Out: &out, Err: &out}, cfg, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "; its log: ") {
		t.Errorf("without a log: %v", err)
	}
}

// A CloudCore that ends at its start is not waited for: it would end again.
func TestAWaitForWhatHasEndedEndsAtOnce(t *testing.T) {
	s := &service{kind: serviceProcess, name: "cloudcore", config: "/c.yaml", state: t.TempDir()}
	put(t, s.state, "cloudcore.log", "hub.webSocketPort: listen tcp :10000: address already in use\n")
	pids := []string{"7\n", "7\n", "8\n"}
	unready := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if len(pids) > 0 {
			put(t, s.state, "cloudcore.pid", pids[0])
			pids = pids[1:]
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer unready.Close()
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Metrics.BindAddress = unready.Listener.Addr().String()
	err := s.waitReady(t.Context(), IO{Out: io.Discard, Err: io.Discard}, cfg, time.Hour)
	if !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "listen tcp :10000: address already in use") || len(pids) > 0 {
		t.Errorf("%v, with %q to come", err, pids)
	}
}

func TestAFailedLookAtAProcessIsNotItsEnd(t *testing.T) {
	s := &service{kind: serviceProcess, name: "cloudcore", config: "/c.yaml", state: t.TempDir()}
	pids := []string{"7\n", "no number\n", "7\n"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if len(pids) == 0 {
			return
		}
		put(t, s.state, "cloudcore.pid", pids[0])
		pids = pids[1:]
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Metrics.BindAddress = server.Listener.Addr().String()
	if err := s.waitReady(t.Context(), IO{Out: io.Discard, Err: io.Discard}, cfg, time.Minute); err != nil || len(pids) > 0 {
		t.Errorf("%v, with %q to come", err, pids)
	}
}
