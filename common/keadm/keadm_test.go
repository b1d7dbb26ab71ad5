package keadm

import (
	"bytes"
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

var today = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// call runs one command line at the given time.
func call(t *testing.T, now time.Time, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), args, IO{Out: &o, Err: &e, Now: func() time.Time { return now }})
	return code, o.String(), e.String()
}

// do runs one that must succeed.
func do(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := call(t, today, args...)
	if code != 0 || errOut != "" {
		t.Fatalf("keadm %q: exit %d\n%s%s", args, code, out, errOut)
	}
	return out
}

func TestInitAndIssueMakeAWorkingIdentity(t *testing.T) {
	dir, out := filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "edge-1")
	do(t, "pki", "init", "--dir", dir, "--advertise-address", "hub.example,10.0.0.1")
	do(t, "pki", "issue-node", "edge-1", "--dir", dir, "--out", out)
	ca, err := pki.ReadCertificates(filepath.Join(out, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca[0])
	node, err := pki.ReadCertificates(filepath.Join(out, "node.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node[0].Verify(x509.VerifyOptions{Roots: pool, CurrentTime: today, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("node: %v", err)
	}
	if name, err := pki.NodeName(node[0]); name != "edge-1" {
		t.Errorf("node name %q, %v", name, err)
	}
	server, err := pki.ReadCertificates(filepath.Join(dir, "server.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"hub.example", "10.0.0.1"} {
		if _, err := server[0].Verify(x509.VerifyOptions{Roots: pool, CurrentTime: today, DNSName: h}); err != nil {
			t.Errorf("server as %s: %v", h, err)
		}
	}
	for _, f := range []string{filepath.Join(dir, "ca.key"), filepath.Join(dir, "server.key"), filepath.Join(out, "node.key")} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}

func TestInitTwiceKeepsTheCA(t *testing.T) {
	dir := t.TempDir()
	do(t, "pki", "init", "--dir", dir, "--advertise-address", "a")
	before, _ := os.ReadFile(filepath.Join(dir, "ca.key"))
	if out := do(t, "pki", "init", "--dir", dir, "--advertise-address", "b"); !strings.Contains(out, "kept") {
		t.Errorf("said %q", out)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "ca.key")); !bytes.Equal(before, after) {
		t.Error("the CA was replaced")
	}
	if out := do(t, "pki", "show", "--dir", dir); !strings.Contains(out, "server for b\n") || !strings.Contains(out, "certificate authority") {
		t.Errorf("show says\n%s", out)
	}
	// Half a CA is an accident to look at, not a reason to make another.
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := call(t, today, "pki", "init", "--dir", dir, "--advertise-address", "b"); code != 1 || !strings.Contains(errOut, "ca.crt is there already") {
		t.Errorf("with half a CA: exit %d, %s", code, errOut)
	}
}

func TestShowTellsExpired(t *testing.T) {
	dir := t.TempDir()
	do(t, "pki", "init", "--dir", dir, "--advertise-address", "a")
	do(t, "pki", "issue-node", "edge-1", "--dir", dir, "--out", dir)
	if out := do(t, "pki", "show", filepath.Join(dir, "node.crt")); !strings.Contains(out, "edge node edge-1") || !strings.Contains(out, "365 days left") {
		t.Errorf("show says\n%s", out)
	}
	code, out, errOut := call(t, today.AddDate(2, 0, 0), "pki", "show", "--dir", dir)
	if code != 1 || !strings.Contains(out, "EXPIRED") || !strings.Contains(errOut, "clock (2032-06-01 12:00:00 UTC)") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

func TestWrongInputSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "unknown command", []string{"install"}},
		{2, "unknown flag", []string{"pki", "init", "--drr", dir}},
		{2, "--advertise-address", []string{"pki", "init", "--dir", dir}},
		{1, `found "a:1"`, []string{"pki", "init", "--dir", dir, "--advertise-address", "a:1"}},
		{2, "accepts 1 arg", []string{"pki", "issue-node"}},
		{2, "--out", []string{"pki", "issue-node", "a", "--dir", dir}},
		{1, "keadm pki init --dir /no/such", []string{"pki", "issue-node", "a", "--dir", "/no/such", "--out", dir}},
		{1, `found "Edge_1"`, []string{"pki", "issue-node", "Edge_1", "--dir", dir, "--out", dir}},
		{1, "found none", []string{"pki", "show", "--dir", t.TempDir()}},
		{1, "no such file", []string{"pki", "show", "/no/such"}},
		{2, "expected -- and the program", []string{"supervise"}},
		{2, "expected -- and the program", []string{"supervise", "edgecore"}},
		{1, "/no/such", []string{"supervise", "--", "/no/such"}},
	} {
		code, out, errOut := call(t, today, c.args...)
		if code != c.code || !strings.Contains(errOut, c.want) || strings.Contains(errOut, "usage: usage") {
			t.Errorf("keadm %q: exit %d, expected %d and %q:\n%s%s", c.args, code, c.code, c.want, out, errOut)
		}
	}
}

func TestVersionBothWays(t *testing.T) {
	a, b := do(t, "version"), do(t, "--version")
	if a != b || !strings.HasPrefix(a, "keadm ") || !strings.Contains(a, "Kubernetes") {
		t.Errorf("version says %q, --version %q", a, b)
	}
}

func TestSuperviseRunsUntilToldToStop(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int)
	go func() {
		code <- Run(ctx, []string{"supervise", "--child-pid-file", filepath.Join(dir, "pid"), "--", "/bin/sleep", "1000"},
			IO{Out: os.Stdout, Err: &bytes.Buffer{}, Now: time.Now})
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the program did not start within 10 s: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d after a stop", got)
	}
}
