package keadm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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

func TestWrongInputSaysWhatToDo(t *testing.T) {
	token := strings.Repeat("ab", 32) + ".abcdefgh.abcdefghijklmnopqrstuvwxyz"
	none := "/no/such/kubeconfig"
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{2, "unknown command", []string{"install"}},
		{2, "unknown flag", []string{"init", "--drr"}},
		{2, "--advertise-address", []string{"init", "--local"}},
		{2, "either --local or --image-repository", []string{"init", "--advertise-address", "a"}},
		{2, "either --local or --image-repository", []string{"init", "--advertise-address", "a", "--local", "--image-repository", "b"}},
		{1, `found "a:1"`, []string{"init", "--advertise-address", "a:1", "--local"}},
		{2, "expected KEY.PATH=VALUE", []string{"init", "--advertise-address", "a", "--local", "--set", "x"}},
		{1, "hub.webSocketPort", []string{"init", "--advertise-address", "a", "--local", "--set", "hub.webSocketPort=0"}},
		{1, "noSuchField", []string{"init", "--advertise-address", "a", "--local", "--set", "hub.noSuchField=0"}},
		{1, "--kubeconfig", []string{"init", "--advertise-address", "a", "--local", "--kubeconfig", none}},
		{1, "--kubeconfig", []string{"gettoken", "--kubeconfig", none}},
		{2, "--cloudcore-ipport and --token", []string{"join"}},
		{1, "CA-HASH.ID.SECRET", []string{"join", "--cloudcore-ipport", "a:1", "--token", "x"}},
		{2, "expected host:port", []string{"join", "--cloudcore-ipport", "a", "--token", token}},
		{2, "--hub-protocol", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--hub-protocol", "smoke"}},
		{2, "--cgroupdriver", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--cgroupdriver", "v2"}},
		{1, `found "Edge_1"`, []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--edgenode-name", "Edge_1"}},
		{2, "--service", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--service", "launchd"}},
		{1, "--force", []string{"reset", "edge"}},
		{1, "--force", []string{"reset", "cloud"}},
		{2, "accepts 1 arg", []string{"token", "revoke"}},
		{2, "accepts 1 arg", []string{"certs", "revoke"}},
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
