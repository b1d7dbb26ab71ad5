package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"
)

// lineBytes is how long a line is that the demo logs. Of a log without line ends kubectl prints nothing: it waits for one.
const lineBytes = 100

// logged is how many bytes are logged: less than by the other ways, as each passes the disk, too.
func (r *relaying) logged() int { return r.size / 16 / lineBytes * lineBytes }

// renew puts a new pod in the place of a node's: its log is one line, which is there at once and is not rotated away.
func (r *relaying) renew(ctx context.Context, node string) error {
	for _, replicas := range []int{0, 1} {
		if _, err := r.scale(ctx, node, replicas); err != nil {
			return err
		}
	}
	return nil
}

// stalled is how long no line may come once all are written. A kubelet that follows a log may stay with a file that was rotated
// away while it was behind, stock as here; what it brought until then is measured.
const stalled = 10 * time.Second

// logs has a pod log lines as fast as its runtime takes them, and follows its log from the first of them to the last.
func (r *relaying) logs(ctx context.Context, node string) (moved, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pod := "deploy/" + node
	follow, err := r.kubectlCommand(ctx, "logs", "-f", "--tail=1", pod)
	if err != nil {
		return moved{}, err
	}
	out, err := follow.StdoutPipe()
	if err != nil {
		return moved{}, err
	}
	if err := follow.Start(); err != nil {
		return moved{}, err
	}
	lines := bufio.NewReaderSize(out, 64<<10)
	var m moved
	if _, err = lines.ReadSlice('\n'); err == nil { // that one is there: from now on the log is followed
		m, err = r.followLines(ctx, cancel, pod, lines)
	}
	cancel()
	_, _ = io.Copy(io.Discard, lines)
	_ = follow.Wait() // killed
	if err != nil {
		return moved{}, fmt.Errorf("follow the log of %s: %w", pod, err)
	}
	m.kubectl = follow.ProcessState.UserTime() + follow.ProcessState.SystemTime()
	return m, nil
}

// followLines has lines logged and reads them. stop ends those who write and bring them.
func (r *relaying) followLines(ctx context.Context, stop func(), pod string, lines *bufio.Reader) (moved, error) {
	count := r.logged() / lineBytes
	var came atomic.Int64
	written := make(chan error, 1)
	go func() {
		_, err := r.kubectl(ctx, 0, "exec", pod, "--", "/demo", "lines", strconv.Itoa(count), "/proc/1/fd/1")
		written <- err
		for seen := int64(-1); came.Load() != seen; {
			seen = came.Load()
			if wait(ctx, stalled) != nil {
				return
			}
		}
		stop()
	}()
	took, err := readLines(lines, count, &came)
	if errors.Is(err, io.ErrUnexpectedEOF) && came.Load() >= int64(count)/4 {
		err = nil
	}
	if err != nil {
		stop() // of which the writer's error is none
		<-written
		return moved{}, err
	}
	return moved{bytes: int(came.Load()) * lineBytes, took: took}, <-written
}

// readLines reads the numbered lines of the demo, of which none may be missing before one that comes, and counts them in came.
// It returns the time from the first to the last, and io.ErrUnexpectedEOF with it if the rest does not come.
func readLines(lines *bufio.Reader, count int, came *atomic.Int64) (time.Duration, error) {
	var first, last time.Time
	for n := range count {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return last.Sub(first), fmt.Errorf("line %d of %d: %w", n, count, err)
		}
		if found, err := strconv.Atoi(string(line[:len(line)-1])); err != nil || found != n || len(line) != lineBytes {
			return 0, fmt.Errorf("line %d of %d: expected its number in %d bytes, found %q", n, count, lineBytes, line)
		}
		came.Add(1)
		if last = time.Now(); n == 0 {
			first = last
		}
	}
	return last.Sub(first), nil
}
