package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
)

// running is a kubectl that talks to a pod.
type running struct {
	what  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *lines
	err   bytes.Buffer // read once it has ended
	ended chan struct{}
}

// lines are what a process prints, to be read meanwhile.
type lines struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// underWay starts kubectl and waits until it prints a word, which exec is told to repeat.
func (s *system) underWay(ctx context.Context, word string, args ...string) *running {
	s.t.Helper()
	r := &running{what: strings.Join(args, " "), cmd: s.kubectlCommand(ctx, args...), out: &lines{}, ended: make(chan struct{})}
	r.cmd.Stdout, r.cmd.Stderr = r.out, &r.err
	var err error
	r.in, err = r.cmd.StdinPipe()
	s.must(err)
	s.must(r.cmd.Start())
	go func() {
		_ = r.cmd.Wait() // its code is looked at
		close(r.ended)
	}()
	if strings.HasPrefix(r.what, "exec") {
		_, err := io.WriteString(r.in, word+"\n")
		s.must(err)
	}
	cluster.Eventually(s.t, time.Minute, r.what+" to be under way", func() error {
		if text := r.out.String(); !strings.Contains(text, word) {
			return fmt.Errorf("it printed %q", text)
		}
		return nil
	})
	return r
}

// TestStreamsUnderWayEndWhenTheirEdgeVanishes within seconds, where those to a stock kubelet's node wait for a minute (exec)
// or for TCP to give up (docs/operations.md). What they end with is kubectl's and kube-apiserver's to say; the next one is told
// which node is away, and since when.
func TestStreamsUnderWayEndWhenTheirEdgeVanishes(t *testing.T) {
	s := sharedSystem(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.subject("under-way", s.edge.Name())
	streams := []struct {
		*running
		code int
		says string
	}{
		{s.underWay(ctx, "typed", "exec", "-i", "under-way", "-c", "demo", "--", "/demo", "cat", "/dev/stdin"), 1, "unexpected EOF"},
		{s.underWay(ctx, "-> 8080", "port-forward", "pod/under-way", ":8080"), 1, "lost connection to pod"},
		{s.underWay(ctx, "demo: serving on", "logs", "-f", "under-way", "-c", "demo"), 0, ""}, // kube-apiserver ends its answer in order
	}
	s.must(s.edge.Drop(context.Background()))
	late := time.After(30 * time.Second) // docs/operations.md says 15 s
	for _, r := range streams {
		select {
		case <-r.ended:
			if code := r.cmd.ProcessState.ExitCode(); code != r.code || !strings.Contains(r.err.String(), r.says) {
				t.Errorf("kubectl %s ended with code %d and %q, expected code %d and %q", r.what, code, r.err.String(), r.code, r.says)
			}
		case <-late:
			t.Errorf("kubectl %s goes on 30 s after the edge vanished", r.what)
		}
	}
	next := s.kubectl("", "exec", "under-way", "-c", "demo", "--", "/demo", "cat", "/etc/hostname")
	if next.code != 1 || !strings.Contains(next.err, `"`+s.edge.Name()+`" cannot be asked`) || !strings.Contains(next.err, "it was last heard of at") {
		t.Errorf("the next exec ends with code %d and %q, expected the node's name and when it was last heard of", next.code, next.err)
	}
	s.heal()
}
