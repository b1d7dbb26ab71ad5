package keadm

import (
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
		own, others := kubelets(root, c.config)
		if len(own) != 1 || own[0].pid != "9" || len(others) > 0 {
			t.Errorf("%s: own %v, others %v", name, own, others)
		}
		if own, others = kubelets(root, "/another.yaml"); len(own) > 0 || len(others) != 1 || !strings.HasSuffix(others[0].String(), "process 9 with --config "+c.config) {
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
	if own, others := kubelets(root, "/c.yaml"); len(own)+len(others) > 0 {
		t.Errorf("own %v, others %v", own, others)
	}
	runs(t, root, "10", "kubelet")
	link(t, root, "proc/10/ns/net", "net:[1]")
	if _, others := kubelets(root, "/c.yaml"); len(others) != 1 || others[0].String() != "kubelet runs as process 10" {
		t.Errorf("others %v", others)
	}
}
