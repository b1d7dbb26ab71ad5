package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/cluster"
)

// placeForTest is a place of this process's own. First it takes down what test processes that were killed left: a
// quickstart's system is meant to outlive the process that made it.
func placeForTest(t *testing.T) *place {
	t.Helper()
	root, err := cluster.ModuleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(os.TempDir(), "tether-quickstart-tests")
	if err := os.MkdirAll(base, 0o755); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || unix.Kill(pid, 0) == nil && pid != os.Getpid() {
			continue
		}
		old := &place{root: root, state: filepath.Join(base, entry.Name())}
		if _, err := old.removeOld(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(old.state); err != nil {
			t.Fatal(err)
		}
	}
	p := &place{root: root, state: filepath.Join(base, strconv.Itoa(os.Getpid()))}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(p.clusterDir(), "log", "*.log"))
			for _, path := range logs {
				text, _ := os.ReadFile(path) // a log that cannot be read says nothing
				t.Logf("the end of %s:\n%s", path, text[max(0, len(text)-4000):])
			}
		}
		if _, err := p.removeOld(context.Background()); err != nil {
			t.Error(err)
			return
		}
		if err := os.RemoveAll(p.state); err != nil {
			t.Error(err)
		}
		_ = os.Remove(base) // not empty while another test process has its own in it
	})
	return p
}

// watcher keeps what was written and calls reached once it holds the words.
type watcher struct {
	words   string
	reached func()

	mu   sync.Mutex // guards text
	text strings.Builder
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.words != "" && strings.Contains(w.text.String(), w.words)
	w.text.Write(p)
	if !before && w.words != "" && strings.Contains(w.text.String(), w.words) {
		w.reached()
	}
	return len(p), nil
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func TestUpWorksAfterAnInterruptedUpAndDownLeavesNothing(t *testing.T) {
	p := placeForTest(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	first := &watcher{words: "edge host: ", reached: interrupt}
	if err := up(ctx, p, io.MultiWriter(first, t.Output())); err == nil || !strings.Contains(err.Error(), "make down") {
		t.Fatalf("expected an interrupted run to end with an error that says what to do, found %v", err)
	}
	if _, err := os.Stat(p.clusterDir()); err != nil {
		t.Fatalf("expected the interrupted run to leave something to remove: %v", err)
	}

	second := &watcher{}
	if err := up(t.Context(), p, io.MultiWriter(second, t.Output())); err != nil {
		t.Fatal(err)
	}
	for words, times := range map[string]int{
		"removed (": 1,
		// Each of the two pods, while cut off and at the end.
		"same id, restart count 0":          2 * replicas,
		fmt.Sprintf("says %q", firstWords):  3 * replicas, // before the cut, after it, after the kill
		fmt.Sprintf("says %q", secondWords): replicas,
		"its link is down":                  1,
		"pump-1 has the new setpoint":       1,
		"neither knows of the other's":      1,
		"power=" + cutPower:                 1,
		"setpoint=" + cutSetpoint:           1,
		"make down":                         1,
	} {
		if found := strings.Count(second.String(), "\n"+indent+words) + strings.Count(second.String(), " "+words); found < times {
			t.Errorf("expected %q %d times in the output, found it %d times", words, times, found)
		}
	}
	checkVerbs(t, p)
}

// checkVerbs tries the other verbs on a running system and takes it down.
func checkVerbs(t *testing.T, p *place) {
	t.Helper()
	expect := func(name string, verb func(context.Context, *place, io.Writer) error, words ...string) {
		t.Helper()
		var out strings.Builder
		if err := verb(t.Context(), p, &out); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, word := range words {
			if !strings.Contains(out.String(), word) {
				t.Errorf("%s: expected %q, found:\n%s", name, word, out.String())
			}
		}
	}
	expect("status", status, "cable     in", "link      up for", "kubelet   running", "node/"+nodeName, "pod/"+demoName)
	expect("cut", cut, "is out")
	expect("status", status, "cable     out")
	expect("heal", heal, "is in again")
	expect("status", status, "cable     in")

	c, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release(t.Context())
	running := c.Processes()
	expect("down", down, "all is down")
	for _, process := range running {
		if process.Alive() {
			t.Errorf("expected %s to end, process %d runs", process.Name(), process.PID())
		}
	}
	for _, path := range []string{p.clusterDir(), p.kubeconfig()} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("expected %s to be gone, found %v", path, err)
		}
	}
}
