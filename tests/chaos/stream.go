package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// stream is somebody who has an exec open in a pod all the time, types numbered lines, and reads them back.
type stream struct {
	w *world

	mu     sync.Mutex
	opened int
	lines  int
	faults []error
	// working is when a line last came back.
	working time.Time
}

// keep keeps a stream open until ctx ends; one that ends is opened again.
func (s *stream) keep(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.once(ctx); err != nil {
			s.mu.Lock()
			s.faults = append(s.faults, err)
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// once opens one and uses it until it ends. What comes back must be what was typed, in order and once.
func (s *stream) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := s.w.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=data", FieldSelector: "status.phase=Running"})
	if err != nil || len(l.Items) == 0 {
		return nil // the API server is one of the things that fail
	}
	req := s.w.Admin.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(l.Items[0].Name).SubResource("exec").VersionedParams(
		&corev1.PodExecOptions{Container: "demo", Command: []string{"/demo", "cat", "/dev/stdin"}, Stdin: true, Stdout: true}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(s.w.REST(), "GET", req.URL().String())
	if err != nil {
		return fmt.Errorf("open a stream: %w", err)
	}
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	typed, in := io.Pipe()
	out, back := io.Pipe()
	begun := time.Now()
	go func() {
		err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: typed, Stdout: back})
		if took := time.Since(begun); ctx.Err() == nil && took > 5*time.Second {
			s.w.time.say("    an exec ended after %.1f s: %v", took.Seconds(), err)
		}
		cancel()
		_ = errors.Join(typed.CloseWithError(err), back.CloseWithError(err)) // they never fail
	}()
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			if _, err := fmt.Fprintln(in, n); err != nil {
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	lines := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // it ended, perhaps in the middle of a line
		}
		if line != fmt.Sprintln(n) {
			return fmt.Errorf("a stream gave back %q, expected line %d", line, n)
		}
		s.mu.Lock()
		s.lines++
		s.working = time.Now()
		s.mu.Unlock()
	}
}

// settled returns nil when a line came back lately.
func (s *stream) settled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ago := time.Since(s.working); ago > 3*time.Second {
		return fmt.Errorf("no line came back through exec for %s", ago.Round(time.Second))
	}
	return nil
}

func (s *stream) wrong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.faults...)
}
