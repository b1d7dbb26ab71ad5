package keadm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// What can be stopped is what systemd runs in the unit, and the child of the supervisor whose files are there.
func TestWhichProcessesAServiceCanStop(t *testing.T) {
	root := t.TempDir()
	put(t, root, "bin/systemctl", "#!/bin/sh\necho 9\n")
	put(t, root, "proc/8/status", "Name:\tedgecore\nPPid:\t1\nUid:\t0\n")
	t.Setenv("PATH", filepath.Join(root, "bin"))
	if err := os.Chmod(filepath.Join(root, "bin/systemctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &service{kind: serviceSystemd, name: "edgecore", config: "/c.yaml", units: filepath.Join(root, "units"), state: filepath.Join(root, "run")}
	expect := func(process string, want bool) {
		t.Helper()
		if got, err := s.started(t.Context(), root, process); got != want || err != nil {
			t.Errorf("process %s: %t, %v; expected %t", process, got, err, want)
		}
	}
	expect("9", false) // there is no unit
	put(t, s.units, "edgecore.service", "[Service]\n")
	expect("9", true)
	expect("8", false)
	put(t, root, "bin/systemctl", "#!/bin/sh\nexit 1\n")
	if _, err := s.started(t.Context(), root, "9"); err == nil {
		t.Error("systemd that does not answer is no answer")
	}
	s.kind = serviceProcess
	expect("8", false) // there is no supervisor
	p := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo; read x", "supervise", s.config)
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = p.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // for a moment after its start a program has no command line
		t.Fatal(err)
	}
	put(t, s.state, "edgecore-supervisor.pid", fmt.Sprint(p.Process.Pid))
	expect("8", false)
	put(t, root, "proc/8/status", fmt.Sprintf("Name:\tedgecore\nPPid:\t%d\nUid:\t0\n", p.Process.Pid))
	expect("8", true)
}
