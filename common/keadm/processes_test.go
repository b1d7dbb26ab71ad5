package keadm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runs makes a program one that runs on the machine below root.
func runs(t *testing.T, root, pid, name string, args ...string) {
	t.Helper()
	put(t, root, filepath.Join("proc", pid, "comm"), name+"\n")
	put(t, root, filepath.Join("proc", pid, "cmdline"), strings.Join(append([]string{"/usr/local/bin/" + name}, args...), "\x00")+"\x00")
}

// link puts a symbolic link below root.
func link(t *testing.T, root, path, target string) {
	t.Helper()
	p := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, p); err != nil {
		t.Fatal(err)
	}
}

func TestAnEdgecoreIsKnownByItsConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		config string
	}{
		"the default":         {nil, "/etc/tether/edgecore.yaml"},
		"another":             {[]string{"--config", "/a/b.yaml"}, "/a/b.yaml"},
		"in one word":         {[]string{"--config=/a/b.yaml"}, "/a/b.yaml"},
		"with one dash":       {[]string{"-config", "/a/b.yaml"}, "/a/b.yaml"},
		"one dash, one word":  {[]string{"-config=/a/../a/b.yaml"}, "/a/b.yaml"},
		"where it was called": {[]string{"--config", "b.yaml"}, "/somewhere/b.yaml"},
	} {
		root := t.TempDir()
		runs(t, root, "9", "edgecore", c.args...)
		link(t, root, "proc/9/cwd", "/somewhere")
		own, others, err := kubelets(root, c.config)
		if err != nil || len(own) != 1 || own[0].pid != "9" || len(others) > 0 {
			t.Errorf("%s: own %v, others %v", name, own, others)
		}
		if own, others, err = kubelets(root, "/another.yaml"); err != nil || len(own) > 0 || len(others) != 1 || !strings.HasSuffix(others[0].String(), "process 9 with --config "+c.config) {
			t.Errorf("%s: for another configuration own %v, others %v", name, own, others)
		}
	}
}

func TestAKubeletInAContainerIsNotThisMachines(t *testing.T) {
	root := t.TempDir()
	runs(t, root, "8", "bash")
	runs(t, root, "9", "k3s-server")
	link(t, root, "proc/self/ns/net", "net:[1]")
	link(t, root, "proc/9/ns/net", "net:[2]")
	if own, others, err := kubelets(root, "/c.yaml"); err != nil || len(own)+len(others) > 0 {
		t.Errorf("own %v, others %v", own, others)
	}
	runs(t, root, "10", "kubelet")
	link(t, root, "proc/10/ns/net", "net:[1]")
	if _, others, err := kubelets(root, "/c.yaml"); err != nil || len(others) != 1 || others[0].String() != "kubelet runs as process 10" {
		t.Errorf("others %v", others)
	}
}

// Where the processes cannot be seen a kubelet may run: no join goes on beside it, and no reset ends its pods.
func TestWhereNoProcessIsSeenAKubeletMayRun(t *testing.T) {
	for name, harm := range map[string]func(proc string) error{
		"no /proc":    os.RemoveAll,
		"not mounted": func(proc string) error { return errors.Join(os.RemoveAll(proc), os.Mkdir(proc, 0o755)) },
	} {
		r, runtime, _ := resetter(t)
		if err := harm(filepath.Join(r.root, "proc")); err != nil {
			t.Fatal(err)
		}
		if err := r.reset(t); err == nil || !strings.Contains(err.Error(), "look for kubelets") || !strings.HasSuffix(err.Error(), "nothing was changed") || len(runtime.ended) > 0 {
			t.Errorf("%s: a reset: %v, ended %q", name, err, runtime.ended)
		}
		var found []string
		(&preflight{root: r.root}).others(func(_ bool, name, what, _ string) { found = append(found, name+": "+what) })
		if len(found) != 1 || !strings.Contains(found[0], "other-kubelet: whether another kubelet runs is not known") {
			t.Errorf("%s: the preflight found %q", name, found)
		}
	}
}
