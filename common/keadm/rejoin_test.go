package keadm

import (
	"bytes"
	"encoding/json"
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

func (r *rejoin) earlier(t *testing.T) (*v1alpha1.EdgeCore, error) {
	t.Helper()
	return r.f.earlier(t.Context(), IO{Out: &r.out, Err: &r.out, Now: time.Now}, r.p, r.bearer)
}

func TestAJoinThatDidNotFinishIsGoneOnWith(t *testing.T) {
	r := newRejoin(t)
	if cfg, err := r.earlier(t); cfg != nil || err != nil || r.out.Len() > 0 {
		t.Errorf("without edgecore: %v, %v\n%s", cfg, err, &r.out)
	}
	runs(t, r.p.root, "9", "edgecore", "--config", r.f.config)
	r.cfg.Cloud.Servers = []string{"127.0.0.1:1"}
	r.cfg.Cloud.JoinPort = 1
	writeEdgeConfig(t, r.f.edgeFiles, r.cfg)
	cfg, err := r.earlier(t)
	if err != nil || cfg == nil || cfg.Metrics.BindAddress != r.cfg.Metrics.BindAddress || !strings.Contains(r.out.String(), "going on with the join of node edge-1") {
		t.Fatalf("%v, %v\n%s", cfg, err, &r.out)
	}
	// Its own edgecore, and the ports that it has, are no obstacle.
	r.p.config = cfg
	cfg.API.BindAddress = cfg.Metrics.BindAddress
	if _, ok := names(r.p.run(t.Context()))["port"]; !ok {
		t.Error("the test's edgecore holds no port")
	}
	r.p.held = listeners(cfg)
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
		"it is Ready":           {func(*rejoin) {}, []string{"has joined already", `node "edge-1"`, "edgecore runs as process 9"}},
		"under another name":    {func(r *rejoin) { r.f.name = "edge-2" }, []string{`is node "edge-1"`, `found --edgenode-name "edge-2"`}},
		"of another CloudCore":  {func(r *rejoin) { r.bearer.Pin = strings.Repeat("ab", 32) }, []string{"of another CloudCore", r64}},
		"with an unknown state": {func(r *rejoin) { put(t, "/", r.f.config, "kind: Nothing\n") }, []string{"cannot be read", "mend or remove it"}},
	} {
		r := newRejoin(t)
		runs(t, r.p.root, "9", "edgecore", "--config", r.f.config)
		c.harm(r)
		cfg, err := r.earlier(t)
		if cfg != nil || err == nil || r.out.Len() > 0 {
			t.Errorf("%s: %v, %v\n%s", name, cfg, err, &r.out)
			continue
		}
		if name != "with an unknown state" {
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

var r64 = strings.Repeat("ab", 32)

func TestWaitingForANodeObeysTheJoinPort(t *testing.T) {
	ca := newCA(t, time.Now)
	asked := 0
	cloud := joinPortWith(t, ca, func(w http.ResponseWriter, _ *http.Request) {
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

func TestAWaitThatFailsShowsTheLog(t *testing.T) {
	s := &service{kind: serviceProcess, name: "cloudcore", config: "/c.yaml", state: t.TempDir()}
	put(t, s.state, "cloudcore.log", strings.Repeat("started again\n", 9)+"listen tcp :10000: address already in use\n")
	busy := httptest.NewServer(http.NotFoundHandler())
	defer busy.Close()
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Metrics.BindAddress = busy.Listener.Addr().String()
	var out bytes.Buffer
	err := s.waitReady(t.Context(), IO{Out: &out, Err: &out}, cfg, 10*time.Millisecond)
	if err == nil || !strings.HasSuffix(err.Error(), "("+s.logFile()+") ends:\n"+strings.Repeat("  started again\n", 4)+"  listen tcp :10000: address already in use") {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(s.state, "cloudcore.log")); err != nil {
		t.Fatal(err)
	}
	if err := s.waitReady(t.Context(), IO{Out: &out, Err: &out}, cfg, 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "; its log: ") {
		t.Errorf("without a log: %v", err)
	}
}
