package keadm

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/common/version"
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
		{2, `no command "instal"`, []string{"help", "instal"}},
		{2, "unknown command", []string{"completion", "tcsh"}},
		{2, "unknown command", []string{"completion", "bash", "x"}},
		{2, "expected json or yaml", []string{"version", "-o", "xml"}},
		{2, `expected one of json, yaml, found "xml"`, []string{"gettoken", "-o", "xml"}},
		{2, `expected one of json, yaml, found "xml"`, []string{"init", "--local", "--advertise-address", "a", "-o", "xml"}},
		{2, "expected yaml with --dry-run", []string{"init", "--local", "--advertise-address", "a", "--dry-run", "-o", "json"}},
		{2, `expected one of json, yaml, found "xml"`, []string{"join", "-e", "a:1", "-t", token, "-o", "xml"}},
		{2, `expected one of json, yaml, found "xml"`, []string{"reset", "edge", "--force", "-o", "xml"}},
		{2, `expected one of json, yaml, found "xml"`, []string{"reset", "cloud", "--force", "-o", "xml"}},
		{2, "--advertise-address", []string{"init", "--local"}},
		{2, "either --local or --image-repository", []string{"init", "--advertise-address", "a"}},
		{2, "either --local or --image-repository", []string{"init", "--advertise-address", "a", "--local", "--image-repository", "b"}},
		{1, `found "a:1"`, []string{"init", "--advertise-address", "a:1", "--local"}},
		{2, "expected KEY.PATH=VALUE", []string{"init", "--advertise-address", "a", "--local", "--set", "x"}},
		{1, "hub.webSocketPort", []string{"init", "--advertise-address", "a", "--local", "--set", "hub.webSocketPort=0"}},
		{1, "noSuchField", []string{"init", "--advertise-address", "a", "--local", "--set", "hub.noSuchField=0"}},
		{1, "--kubeconfig", []string{"init", "--advertise-address", "a", "--local", "--kubeconfig", none}},
		{1, "--kubeconfig", []string{"gettoken", "--kubeconfig", none}},
		{1, "--kubeconfig", []string{"gettoken", "--node", "shop-*.example", "--kubeconfig", none}},
		{2, "--cloudcore-ipport and --token", []string{"join"}},
		{1, "CA-HASH.ID.SECRET", []string{"join", "--cloudcore-ipport", "a:1", "--token", "x"}},
		{2, "expected host:port", []string{"join", "--cloudcore-ipport", "a", "--token", token}},
		{2, "--hub-protocol", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--hub-protocol", "smoke"}},
		{2, "--cgroupdriver", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--cgroupdriver", "v2"}},
		{1, `found "Edge_1"`, []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--edgenode-name", "Edge_1"}},
		{2, "--service", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--service", "launchd"}},
		{1, "nothing was changed", []string{"reset", "edge", "--config", "/no/such/edgecore.yaml", "--data-dir", "/no/such", "--pki-dir", "/no/such"}},
		{2, "--ignore-preflight-errors: expected one of all, root, cgroup-v1,", []string{"join", "--cloudcore-ipport", "a:1", "--token", token, "--ignore-preflight-errors", "swap,ports"}},
		{2, `--node: expected a node's name`, []string{"gettoken", "--node", "Shop_1", "--kubeconfig", none}},
		{2, `--node: expected a node's name`, []string{"token", "create", "--node", "", "--kubeconfig", none}},
		{2, `--token-node: expected a node's name`, []string{"init", "--local", "--advertise-address", "a", "--token-node", "-*"}},
		{1, "--force", []string{"reset", "cloud"}},
		{2, "expected --image-repository", []string{"config", "images"}},
		{2, "expected a token's ID, as 'keadm token list' shows it, found none", []string{"token", "revoke"}},
		{2, "expected a node, as 'keadm certs list' shows it, found a b", []string{"certs", "revoke", "a", "b"}},
		{2, "expected a pod, -- and the command", []string{"ctl", "exec", "web", "sh"}},
		{2, "expected a pod, -- and the command", []string{"ctl", "exec", "--", "sh"}},
		{2, "expected a pod, found none", []string{"ctl", "logs"}},
		{2, "expected a pod, found none", []string{"ctl", "restart"}},
		{2, "expected a kind, such as pods, found none", []string{"ctl", "get"}},
		{2, "expected one pod at most, found a b", []string{"ctl", "top", "pods", "a", "b"}},
		{2, `expected pod, node or device and names, found ""`, []string{"ctl", "describe"}},
		{2, `expected pod, node or device and names, found "cm settings"`, []string{"ctl", "describe", "cm", "settings"}},
		{2, `expected pod, node or device and names, found "pod/"`, []string{"ctl", "describe", "pod/"}},
		{2, `expected pod, node or device and names, found "pod/web x"`, []string{"ctl", "describe", "pod/web", "x"}},
		{2, "name cannot be provided when a selector is specified", []string{"ctl", "describe", "pod", "web", "-l", "a=b"}},
		{2, "--drain-timeout: expected more than 0", []string{"reset", "edge", "--drain-timeout", "0", "--config", "/no/such/edgecore.yaml", "--data-dir", "/no/such", "--pki-dir", "/no/such"}},
		{2, "--drain-timeout: expected more than 0", []string{"reset", "edge", "--drain-timeout=-1m", "--config", "/no/such/edgecore.yaml", "--data-dir", "/no/such", "--pki-dir", "/no/such"}},
		{2, "--timeout: expected more than 0", []string{"ctl", "restart", "web", "--timeout", "0", "--config", "/no/such/edgecore.yaml"}},
		{2, "--uses: expected how many nodes", []string{"gettoken", "--uses", "-1", "--kubeconfig", none}},
		{2, "--ttl: expected more than 0, such as 2m, found -5h", []string{"gettoken", "--ttl", "-5h", "--kubeconfig", none}},
		{2, "--ttl: expected more than 0", []string{"token", "create", "--ttl", "0", "--kubeconfig", none}},
		{2, "--token-uses: expected how many nodes", []string{"init", "--local", "--advertise-address", "a", "--token-uses", "-1", "--kubeconfig", none}},
		{2, "expected -- and the program", []string{"supervise"}},
		{2, "expected -- and the program", []string{"supervise", "edgecore"}},
		{1, "/no/such", []string{"supervise", "--", "/no/such"}},
	} {
		code, out, errOut := call(t, today, c.args...)
		if code != c.code || !strings.Contains(errOut, c.want) || strings.Contains(errOut, "usage:") {
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

func TestVersionForPrograms(t *testing.T) {
	for _, format := range []string{"json", "yaml"} {
		var got version.Info
		if out := do(t, "version", "-o", format); yaml.Unmarshal([]byte(out), &got) != nil || got != version.Get() || strings.HasPrefix(out, "{") != (format == "json") {
			t.Errorf("version -o %s says %s, expected %+v", format, out, version.Get())
		}
	}
}

func TestImagesAreThoseOfInit(t *testing.T) {
	for _, c := range []struct {
		want string
		args []string
	}{
		{"registry.example/tether/cloudcore:v9\n", []string{"--image-tag", "v9"}},
		{"registry.example/tether/cloudcore:" + version.Get().Version + "\n", nil},
		{"{\n  \"images\": [\n    \"registry.example/tether/cloudcore:v9\"\n  ]\n}\n", []string{"--image-tag", "v9", "-o", "json"}},
		{"images:\n- registry.example/tether/cloudcore:v9\n", []string{"--image-tag", "v9", "-o", "yaml"}},
	} {
		if got := do(t, append([]string{"config", "images", "--image-repository", "registry.example/tether/"}, c.args...)...); got != c.want {
			t.Errorf("config images %q says\n%s, expected\n%s", c.args, got, c.want)
		}
	}
}

func TestShellsCompleteCommandsAndValues(t *testing.T) {
	for shell, mark := range map[string]string{"bash": "complete -o default -F __start_keadm keadm", "zsh": "#compdef keadm", "fish": "complete -c keadm", "powershell": "Register-ArgumentCompleter"} {
		if out := do(t, "completion", shell); !strings.Contains(out, mark) {
			t.Errorf("completion %s: expected %q in a script, found %d bytes", shell, mark, len(out))
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"completion", []string{"comp"}},
		{"systemd", []string{"join", "--service", ""}},
		{"systemd", []string{"init", "--service", ""}},
		{"systemd", []string{"reset", "edge", "--service", ""}},
		{"systemd", []string{"reset", "cloud", "--service", ""}},
		{"quic", []string{"join", "--hub-protocol", ""}},
		{"cgroupfs", []string{"join", "--cgroupdriver", ""}},
		{"yaml", []string{"version", "-o", ""}},
		{"yaml", []string{"init", "-o", ""}},
		{"zsh", []string{"completion", ""}},
		{"wide", []string{"ctl", "get", "pods", "-o", ""}},
	} {
		code, out, _ := call(t, today, append([]string{"__complete"}, c.args...)...)
		if code != 0 || !strings.Contains("\n"+out, "\n"+c.want) {
			t.Errorf("completing %q: exit %d, expected %q among\n%s", c.args, code, c.want, out)
		}
	}
}

func TestHelpTellsAboutACommand(t *testing.T) {
	if a, b := do(t, "help", "token", "create"), do(t, "token", "create", "--help"); a != b || !strings.Contains(a, "--uses") {
		t.Errorf("help token create says\n%s\nand --help\n%s", a, b)
	}
}

func TestEachCommandAndFlagSaysWhatItIsFor(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" || c.HasParent() && !c.Parent().HasParent() && c.GroupID == "" {
			t.Errorf("%s: short text %q, group %q", c.CommandPath(), c.Short, c.GroupID)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s says nothing of itself", c.CommandPath(), f.Name)
			}
		})
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 130 && c.Parent().Name() != "completion" {
				t.Errorf("%s: a terminal breaks %q", c.CommandPath(), line)
			}
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(Command(IO{}))
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
