package keadm

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// allWell is the status of a node with which all is well.
const allWell = `{"node":"edge-1",
 "link":{"connected":true,"server":"10.0.0.1:10001","protocol":"quic","session":"s","since":"2030-06-01T09:00:00Z","synced":true},
 "sealing":{"source":"key-file","passedOver":["tpm: this machine has no /dev/tpmrm0"],"created":"2030-01-01T00:00:00Z"},
 "store":{},"kubelet":{"state":"running","since":"2030-05-31T12:00:00Z","attempts":0}}`

func statusOf(t *testing.T, text string) *edgeStatus {
	t.Helper()
	s := &edgeStatus{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// edgecore answers as one would with that status, for the configuration it returns, which it writes to a file.
func edgecore(t *testing.T, files edgeFiles, text string, cloud string) *v1alpha1.EdgeCore {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("tether_link_connected 1\n")) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName, cfg.DataDir = "edge-1", files.data
	cfg.Cloud.CertFile, cfg.Cloud.KeyFile, cfg.Cloud.CAFile = files.cert(), files.key(), files.ca()
	cfg.Metrics.BindAddress = s.Listener.Addr().String()
	host, port, _ := strings.Cut(cloud, ":")
	cfg.Cloud.Servers = []string{host + ":1"}
	if err := json.Unmarshal([]byte(port), &cfg.Cloud.JoinPort); err != nil {
		t.Fatal(err)
	}
	writeEdgeConfig(t, files, cfg)
	return cfg
}

func writeEdgeConfig(t *testing.T, files edgeFiles, cfg *v1alpha1.EdgeCore) {
	t.Helper()
	b, err := v1alpha1.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.config, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestALinkIsToldAsAPersonWould(t *testing.T) {
	for want, l := range map[string]linkStatus{
		"up over quic to a:1 since 2030-06-01 09:00:00 UTC (3h)":                                         {Connected: true, Synced: true, Protocol: "quic", Server: "a:1", Since: today.Add(-3 * time.Hour)},
		"up over websocket to a:1 since 2030-06-01 11:59:50 UTC (10s), not caught up with the cloud yet": {Connected: true, Protocol: "websocket", Server: "a:1", Since: today.Add(-10 * time.Second)},
		"down since 2030-05-25 12:00:00 UTC (7 days): no route":                                          {Problem: "no route", Since: today.AddDate(0, 0, -7)},
		"down since 1970-01-01 00:00:10 UTC: the clock was put right meanwhile":                          {Problem: "the clock was put right meanwhile", Since: time.Unix(10, 0)},
		"down since 2030-06-01 12:00:05 UTC: the clock was put back":                                     {Problem: "the clock was put back", Since: today.Add(5 * time.Second)},
	} {
		if got := l.describe(today); got != want {
			t.Errorf("told %q, expected %q", got, want)
		}
	}
}

// check reports on the machine that runs the test; what it says of the link does not depend on that.
func TestCheckShowsTheLinkOfAMachineThatHasJoined(t *testing.T) {
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	cfg := edgecore(t, files, allWell, joinPort(t, ca))
	// edgecore's own port, as it would be in use.
	cfg.API.BindAddress = cfg.Metrics.BindAddress
	writeEdgeConfig(t, files, cfg)
	_, out, errOut := call(t, today, "check", "--config", files.config)
	for _, want := range []string{"node         edge-1\n", "link         up over quic to 10.0.0.1:10001 since 2030-06-01 09:00:00 UTC (3h)\n",
		"sealing      stored Secrets and tokens are sealed by a key file that root may read on the same disk (tpm: this machine has no /dev/tpmrm0)\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("expected %q in\n%s%s", want, out, errOut)
		}
	}
	for _, command := range [][]string{{"check"}, {"debug", "check"}} {
		_, out, errOut = call(t, today, append(command, "--config", files.config, "-o", "json")...)
		var r machineReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v\n%s%s", err, out, errOut)
		}
		if r.Node != "edge-1" || r.Link == nil || *r.Link != statusOf(t, allWell).Link || r.Sealing == nil || r.Sealing.Source != "key-file" {
			t.Errorf("%q says %s", command, out)
		}
		found := names(r.Findings)
		for _, own := range []string{"port", "no-cloud", "edgecore"} {
			if f, ok := found[own]; ok {
				t.Errorf("%q finds %+v at a machine that has joined", command, f)
			}
		}
		if _, ok := found["time"]; !ok {
			t.Errorf("%q at a clock that is years off finds %+v", command, found)
		}
	}
	if _, out, _ = call(t, today, "check", "--config", files.config, "-o", "yaml"); !strings.Contains(out, "  protocol: quic\n") || !strings.Contains(out, "  server: 10.0.0.1:10001\n") {
		t.Errorf("in YAML:\n%s", out)
	}
}

func TestCheckSaysThatEdgecoreIsSilent(t *testing.T) {
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	cfg := edgecore(t, files, allWell, joinPort(t, ca))
	cfg.Metrics.BindAddress = freePort(t)
	writeEdgeConfig(t, files, cfg)
	code, out, errOut := call(t, time.Now(), "check", "--config", files.config)
	if code != 1 || !strings.Contains(out, "ERROR edgecore: ") || strings.Contains(out, "link  ") || !strings.Contains(errOut, "edgecore") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

func TestCheckOfAMachineThatHasNotJoined(t *testing.T) {
	_, out, errOut := call(t, today, "check", "--config", t.TempDir()+"/none.yaml", "--remote-runtime-endpoint", "/no/such.sock", "-o", "json")
	var r machineReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Node != "" || r.Link != nil {
		t.Fatalf("%v\n%s%s", err, out, errOut)
	}
	if f := names(r.Findings)["runtime"]; !strings.Contains(f.Found, "/no/such.sock") || !strings.Contains(errOut, "not ready to join") {
		t.Errorf("the flags of join are not heard: %+v\n%s", r.Findings, errOut)
	}
}

func TestPreflightOfARunningNodeLeavesItsOwnAlone(t *testing.T) {
	root, p := sound(t)
	runs(t, root, "9", "edgecore")
	p.file = "/etc/tether/edgecore.yaml"
	if f, ok := names(p.run(t.Context()))["other-kubelet"]; ok {
		t.Errorf("found %+v", f)
	}
	p.file = "/etc/tether/other.yaml"
	if f := names(p.run(t.Context()))["other-kubelet"]; !strings.Contains(f.Found, "edgecore runs as process 9 with --config /etc/tether/edgecore.yaml") {
		t.Errorf("found %+v", f)
	}
	put(t, root, "proc/8/comm", "k3s\n")
	if f := names(p.run(t.Context()))["other-kubelet"]; !strings.Contains(f.Found, "k3s") {
		t.Errorf("found %+v", f)
	}
}

func TestANodesOwnFileHasToBeReadable(t *testing.T) {
	path := t.TempDir() + "/edgecore.yaml"
	if err := os.WriteFile(path, []byte("kind: Nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"check"}, {"debug", "diagnose", "edge"}} {
		if code, out, errOut := call(t, today, append(command, "--config", path)...); code != 1 || !strings.Contains(errOut, "Nothing") {
			t.Errorf("%q: exit %d\n%s%s", command, code, out, errOut)
		}
	}
}

func TestAReportSaysWhenNothingIsWrong(t *testing.T) {
	for want, r := range map[string]*machineReport{
		"this machine is ready to join\n":                                           newReport(),
		"node         a\nnothing is wrong\n":                                        {Node: "a"},
		"node         a\nlink         down since 2030-06-01 12:00:00 UTC (0s): x\n": {Node: "a", Link: &linkStatus{Since: today, Problem: "x"}},
		"ERROR disk: full\n      free some\n":                                       {Findings: []finding{{"disk", true, "full", "free some"}}},
		"note  swap: used\n      stop it\nthis machine is ready to join\n":          {Findings: []finding{{"swap", false, "used", "stop it"}}},
	} {
		var out strings.Builder
		if r.write(&out, today); out.String() != want {
			t.Errorf("wrote\n%s\nexpected\n%s", out.String(), want)
		}
	}
	if b, err := json.Marshal(newReport()); string(b) != `{"findings":[]}` {
		t.Errorf("no findings are %s, %v", b, err)
	}
}
