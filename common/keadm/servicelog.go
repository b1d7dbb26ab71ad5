package keadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/tether-edge/tether/common/supervise"
)

// advice says how an administrator starts it again, and where its log is.
func (s *service) advice() (start, log string) {
	if s.kind == serviceSystemd && isFile(s.unit()) {
		return "systemctl restart " + s.name, "journalctl -u " + s.name
	}
	program, err := s.program()
	if err != nil {
		program = s.name
	}
	if isFile(s.logFile()) {
		return strings.Join(s.supervised(program), " "), s.logFile()
	}
	return program + " --config " + s.config, "what it writes to standard error"
}

// log returns the end of its log, and of the former one before it, at most limit bytes of whole lines.
func (s *service) log(ctx context.Context, limit int64) ([]byte, error) {
	f, err := os.Open(s.logFile())
	if errors.Is(err, os.ErrNotExist) {
		return s.journal(ctx, limit)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(size, limit))
	n, err := f.ReadAt(b, size-int64(len(b)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if b = b[:n]; size < limit {
		former, err := os.ReadFile(supervise.FormerLog(s.logFile())) // of bounded size
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		b = append(former, b...)
		size = int64(len(b))
		b = b[max(0, size-limit):]
	}
	if size > limit {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return b, nil
}

func (s *service) journal(ctx context.Context, limit int64) ([]byte, error) {
	if !isFile(s.unit()) {
		return nil, fmt.Errorf("%s has no log here: expected %s or a unit of systemd", s.name, s.logFile())
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// The newest first, so that what is beyond the limit is the oldest.
	c := exec.CommandContext(ctx, "journalctl", "--unit", s.name, "--no-pager", "--output", "cat", "--reverse", "--lines", "20000")
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(out, limit))
	cancel()     // it may have more to say
	_ = c.Wait() // it was killed, which is what Wait would say
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	lines := slices.Collect(strings.Lines(string(b)))
	slices.Reverse(lines)
	return []byte(strings.Join(lines, "")), nil
}

// lastWords are the last line of its log, empty if there is none.
func (s *service) lastWords(ctx context.Context) string {
	lines := s.lastLines(ctx)
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// lastLines are the last few lines of its log.
func (s *service) lastLines(ctx context.Context) []string {
	b, err := s.log(ctx, 4<<10)
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" {
		return nil
	}
	lines := strings.Split(redactor{}.text(text), "\n")
	return lines[max(0, len(lines)-5):]
}

// end tells the end of its log, for an error that waiting for it ended with, and where there is more.
func (s *service) end(ctx context.Context) string {
	// Where the wait was interrupted, the log is still to be read.
	lines := s.lastLines(context.WithoutCancel(ctx))
	_, log := s.advice()
	if len(lines) == 0 {
		return "; its log: " + log
	}
	return "; its log (" + log + ") ends:\n  " + strings.Join(lines, "\n  ")
}
