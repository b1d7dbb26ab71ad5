package keadm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
)

func TestDiagnosisByWhatEdgecoreSays(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*edgeStatus)
		want   string // the finding, empty for none
		error  bool
		says   []string // in what was found and the remedy
	}{
		"all is well": {func(*edgeStatus) {}, "", false, nil},
		"no network": {func(s *edgeStatus) {
			s.Link = linkStatus{Since: today.Add(-time.Hour), Problem: "dial 10.0.0.1:10000: no route to host"}
		}, "link", true, []string{"down since 2030-06-01 11:00:00 UTC (1h): dial 10.0.0.1:10000: no route to host", "mend the network"}},
		"revoked": {func(s *edgeStatus) {
			s.Link = linkStatus{Problem: fmt.Sprintf("%v: %v: remote error", transport.ErrRefused, pki.ErrRefused)}
		}, "link", true, []string{"keadm certs list", "keadm reset edge"}},
		"revoked in a session": {func(s *edgeStatus) {
			s.Link = linkStatus{Problem: "the hub does not want this session (REASON_REFUSED): the certificate was revoked: join again with a token"}
		}, "link", true, []string{"keadm reset edge"}},
		"another machine has the name": {func(s *edgeStatus) {
			s.Link = linkStatus{Problem: "the hub does not want this session (REASON_REFUSED): another edge is connected"}
		}, "link", true, []string{"which machine has the name"}},
		"a hub that is full": {func(s *edgeStatus) {
			s.Link = linkStatus{Problem: "the hub does not want this session (REASON_OVERLOADED): full"}
		}, "link", true, []string{"come back later"}},
		"turned away": {func(s *edgeStatus) {
			s.Link = linkStatus{Problem: fmt.Sprintf("%v with HTTP status 503", transport.ErrRefused)}
		}, "link", true, []string{"its log says why"}},
		"a drill":           {func(s *edgeStatus) { s.Link = linkStatus{Problem: fmt.Sprintf("%v a1 until noon", drill.ErrCut)} }, "link", true, []string{"keadm ctl drill stop"}},
		"another CloudCore": {func(s *edgeStatus) { s.Link = linkStatus{Problem: fmt.Sprint(pki.ErrUntrusted)} }, "link", true, []string{"another CloudCore"}},
		"expired":           {func(s *edgeStatus) { s.Link = linkStatus{Problem: fmt.Sprint(pki.ErrExpired)} }, "link", true, []string{"certificate and the time"}},
		"catching up":       {func(s *edgeStatus) { s.Link.Synced, s.Link.Since = false, today.Add(-5*time.Second) }, "sync", false, []string{"not caught up"}},
		"not catching up":   {func(s *edgeStatus) { s.Link.Synced = false }, "sync", true, []string{"since 2030-06-01 09:00:00 UTC (3h)"}},
		"never synced":      {func(s *edgeStatus) { s.Kubelet.State = "waiting-sync" }, "kubelet", true, []string{"mend the link"}},
		"no runtime":        {func(s *edgeStatus) { s.Kubelet.State, s.Kubelet.Reason = "waiting-runtime", "no socket" }, "kubelet", true, []string{"no socket", "containerd"}},
		"a poor machine":    {func(s *edgeStatus) { s.Kubelet.State, s.Kubelet.Reason = "waiting-host", "no /dev/kmsg" }, "kubelet", true, []string{"no /dev/kmsg"}},
		"it ends each time": {func(s *edgeStatus) {
			s.Kubelet = kubeletStatus{State: "delayed", Attempts: 4, Until: today.Add(time.Minute), Reason: "no cgroups"}
		}, "kubelet", true, []string{"no cgroups", "4 starts", "2030-06-01T12:01:00Z"}},
		"it starts":          {func(s *edgeStatus) { s.Kubelet.State, s.Kubelet.Since = "starting", today.Add(-time.Second) }, "kubelet", false, nil},
		"it starts for ever": {func(s *edgeStatus) { s.Kubelet.State = "starting" }, "kubelet", true, []string{"part=kubelet"}},
		"of another version": {func(s *edgeStatus) { s.Kubelet.State = "dreaming" }, "kubelet", true, []string{"dreaming"}},
		"a damaged disk":     {func(s *edgeStatus) { s.Store = storeStatus{Damaged: "bad page", SetAside: "/x", Restored: "copy"} }, "database", false, []string{"bad page", "/x", "copy"}},
		"a lost key": {func(s *edgeStatus) {
			s.Store.Unreadable, s.Sealing = 7, &sealingStatus{Source: "key-file", Lost: []string{"key 5, sealed by tpm: it does not answer"}}
		}, "sealing", false, []string{"7 stored Secrets", "it does not answer", "the cloud sends them again"}},
		"a lost key of an older edgecore": {func(s *edgeStatus) { s.Store.Unreadable = 1 }, "sealing", false, []string{"their key is lost"}},
	} {
		s := statusOf(t, allWell)
		c.change(s)
		r := &machineReport{}
		r.judge(s, today)
		if (c.want == "") != (len(r.Findings) == 0) || len(r.Findings) > 1 {
			t.Errorf("%s: expected %q, found %+v", name, c.want, r.Findings)
			continue
		}
		for _, f := range r.Findings {
			if f.Name != c.want || f.Error != c.error || f.Found == "" || f.Remedy == "" {
				t.Errorf("%s: expected %q, an error: %t, found %+v", name, c.want, c.error, f)
			}
			for _, says := range c.says {
				if !strings.Contains(f.Found+"\n"+f.Remedy, says) {
					t.Errorf("%s: expected %q in %+v", name, says, f)
				}
			}
		}
	}
}

func TestDiagnosisOfACertificate(t *testing.T) {
	const life = 8 * 24 * time.Hour
	for name, c := range map[string]struct {
		now  time.Duration // since it was issued
		node string
		want string
		says string
	}{
		"fresh":                            {0, "edge-1", "", ""},
		"due":                              {life * 17 / 24, "edge-1", "", ""},
		"overdue":                          {life * 19 / 24, "edge-1", "certificate", "could not renew it since 2030-06-06 20:00:00 UTC"},
		"expired":                          {life + 73*time.Hour, "edge-1", "certificate", "expired on 2030-06-09 12:00:00 UTC (3 days ago)"},
		"of another node":                  {0, "edge-2", "certificate", `"edge-2"`},
		"issued in the future of a clock":  {-60 * 365 * 24 * time.Hour, "edge-1", "time", "the certificate was issued later"},
		"by a clock that is a little fast": {-30 * time.Second, "edge-1", "", ""},
	} {
		ca := newCA(t, func() time.Time { return today })
		files := node(t, ca, "edge-1", life)
		cfg := v1alpha1.DefaultEdgeCore()
		cfg.NodeName, cfg.Cloud.CertFile = c.node, files.cert()
		r := &machineReport{}
		r.judgeCertificate(cfg, today.Add(c.now))
		if r.Certificate == nil || !r.Certificate.NotAfter.Equal(today.Add(life)) {
			t.Errorf("%s: the report says %+v", name, r.Certificate)
		}
		if (c.want == "") != (len(r.Findings) == 0) || len(r.Findings) == 1 && (r.Findings[0].Name != c.want || !r.Findings[0].Error || !strings.Contains(r.Findings[0].Found, c.says)) {
			t.Errorf("%s: expected %q and %q, found %+v", name, c.want, c.says, r.Findings)
		}
	}
	r, cfg := &machineReport{}, v1alpha1.DefaultEdgeCore()
	cfg.Cloud.CertFile = filepath.Join(t.TempDir(), "none.crt")
	r.judgeCertificate(cfg, today)
	if len(r.Findings) != 1 || !strings.Contains(r.Findings[0].Found, "none.crt") {
		t.Errorf("without a certificate: %+v", r.Findings)
	}
}

func TestDiagnosisOfASilentEdgecoreTellsItsLastWords(t *testing.T) {
	root, p := sound(t)
	s := &service{kind: serviceProcess, name: "edgecore", config: "/c.yaml", state: t.TempDir()}
	tell := func() finding {
		r := &machineReport{}
		r.silent(t.Context(), os.ErrDeadlineExceeded, s, p)
		return r.Findings[0]
	}
	if f := tell(); !f.Error || !strings.Contains(f.Found, "it does not run") || !strings.Contains(f.Remedy, "edgecore --config /c.yaml") || strings.Contains(f.Found, "last words") {
		t.Errorf("never started: %+v", f)
	}
	put(t, s.state, "edgecore.log", "first words\nnodeName: expected a name, token=abcdefgh\n")
	runs(t, root, "9", "edgecore", "--config", "/c.yaml")
	p.file = "/c.yaml"
	if f := tell(); !strings.Contains(f.Found, "process 9") || !strings.Contains(f.Found, "last words were: nodeName: expected a name, token=***") ||
		!strings.Contains(f.Remedy, "supervise") || !strings.Contains(f.Remedy, s.logFile()) {
		t.Errorf("hanging: %+v", f)
	}
}

func TestDiagnoseExitsHonestly(t *testing.T) {
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	cloud := joinPort(t, ca)
	edgecore(t, files, allWell, cloud)
	for _, word := range []string{"edge", "node"} {
		code, out, errOut := call(t, time.Now(), "debug", "diagnose", word, "--config", files.config)
		if code != 0 || !strings.Contains(out, "link         up over quic") || !strings.Contains(out, "kubelet      running") || !strings.Contains(out, "certificate  until") || !strings.Contains(out, "nothing is wrong") {
			t.Errorf("all is well: exit %d\n%s%s", code, out, errOut)
		}
	}
	edgecore(t, files, strings.Replace(allWell, `"connected":true`, `"connected":false,"problem":"no carrier"`, 1), cloud)
	code, out, errOut := call(t, time.Now(), "debug", "diagnose", "edge", "--config", files.config)
	if code != 1 || !strings.Contains(out, "ERROR link: the link is down since") || !strings.Contains(out, "no carrier") || strings.Contains(out, "nothing is wrong") || !strings.Contains(errOut, "keadm debug collect") {
		t.Errorf("no link: exit %d\n%s%s", code, out, errOut)
	}
	var r machineReport
	code, out, errOut = call(t, time.Now(), "debug", "diagnose", "edge", "--config", files.config, "-o", "json")
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || r.Node != "edge-1" || r.Link.Connected || len(r.errors()) != 1 || r.Certificate == nil || r.Kubelet.State != "running" {
		t.Errorf("for programs: exit %d, %v\n%s%s", code, err, out, errOut)
	}
	if code, out, errOut = call(t, today, "debug", "diagnose", "edge", "--config", files.config+".none"); code != 1 || !strings.Contains(errOut, "has not joined") {
		t.Errorf("before a join: exit %d\n%s%s", code, out, errOut)
	}
}

// A cloud that does not answer, a clock that is off, UDP that is dropped, no runtime: what the machine lacks is said beside
// what edgecore says.
func TestDiagnosisLooksBeneath(t *testing.T) {
	ca := newCA(t, time.Now)
	files := node(t, ca, "edge-1", time.Hour)
	down := strings.Replace(allWell, `"connected":true`, `"connected":false`, 1)
	cfg := edgecore(t, files, strings.Replace(down, `"running"`, `"waiting-runtime"`, 1), joinPort(t, ca))
	cfg.Kubelet.ContainerRuntimeEndpoint, cfg.Cloud.Protocol, cfg.Cloud.QUICPort = "unix:///no/such.sock", v1alpha1.ProtocolQUIC, 1
	r, err := diagnose(t.Context(), IO{Now: func() time.Time { return time.Now().Add(time.Hour / 2) }}, cfg, files.config)
	if err != nil {
		t.Fatal(err)
	}
	found := names(r.Findings)
	for _, name := range []string{"link", "kubelet", "runtime", "udp", "time"} {
		if _, ok := found[name]; !ok {
			t.Errorf("no %s in %+v", name, r.Findings)
		}
	}
	cfg.Cloud.JoinPort = 1
	if r, err = diagnose(t.Context(), IO{Now: time.Now}, cfg, files.config); err != nil || !names(r.Findings)["no-cloud"].Error {
		t.Errorf("no cloud: %v, %+v", err, r.Findings)
	}
}
