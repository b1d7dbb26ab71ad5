package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// counter is the container of the StatefulSet's pod that writes numbers to its log.
const counter = "counter"

// logStream is somebody who follows the log of the counter all the time, and looks whether a number is missing.
type logStream struct {
	w *world

	mu            sync.Mutex
	opened, lines int
	faults        []error
	// working is when a line last came, refused why the last stream could not be opened.
	working time.Time
	refused error
}

func newLogStream(w *world) *logStream { return &logStream{w: w} }

// keep follows the log until ctx ends; a stream that ends is opened again.
func (s *logStream) keep(ctx context.Context) {
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

// once follows the log of one container until the stream ends: number follows number, from wherever it began.
func (s *logStream) once(ctx context.Context) error {
	pods := s.w.Admin.CoreV1().Pods(namespace)
	l, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=data", FieldSelector: "status.phase=Running"})
	if err != nil || len(l.Items) == 0 {
		return nil // the API server is one of the things that fail
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log, err := pods.GetLogs(l.Items[0].Name, &corev1.PodLogOptions{Container: counter, Follow: true, TailLines: new(int64(5))}).Stream(ctx)
	s.mu.Lock()
	s.refused = err
	s.mu.Unlock()
	if err != nil {
		return nil // so is the link
	}
	defer log.Close()
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	// A connection that is half open ends when the next line is long overdue, as somebody who looks at it would end it.
	patience := time.AfterFunc(logPatience, cancel)
	defer patience.Stop()
	lines := bufio.NewReader(log)
	for last := -1; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // it ended, perhaps in the middle of a line
		}
		patience.Reset(logPatience)
		n, err := number(line, last)
		if err != nil {
			return err
		}
		last = n
		s.mu.Lock()
		s.lines++
		s.working = time.Now()
		s.mu.Unlock()
	}
}

// logPatience is how long a log may be silent that has a line five times a second.
const logPatience = 20 * time.Second

// number reads a line of the counter's, which has to follow last; -1 is the beginning of a stream.
func number(line string, last int) (int, error) {
	n, err := strconv.Atoi(line[:len(line)-1])
	if err != nil {
		return 0, fmt.Errorf("a log gave %q, expected a number", line)
	}
	if last >= 0 && n != last+1 {
		return 0, fmt.Errorf("a log gave %d after %d: lines are missing or there twice", n, last)
	}
	return n, nil
}

// settled returns nil when a line came lately.
func (s *logStream) settled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ago := time.Since(s.working); ago > 3*time.Second {
		return errors.Join(fmt.Errorf("no line came of a log that is followed for %s", ago.Round(time.Second)), s.refused)
	}
	return nil
}

func (s *logStream) wrong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.faults...)
}
