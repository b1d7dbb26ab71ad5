package controlplane

import (
	"bytes"
	"fmt"
	"os"
	"sync"
)

const (
	// logFileLimit is the size at which a log becomes NAME.log.1, replacing the one before:
	// at most 2 x 16 MiB per component.
	logFileLimit = 16 << 20
	logTailSize  = 4 << 10
)

// logFile takes a component's output. Write never fails: an error would close
// the component's standard error and so end it, and a full disk is no reason for that.
type logFile struct {
	path string

	mu      sync.Mutex // guards the fields below
	file    *os.File   // nil if it could not be opened
	size    int64
	dropped int64  // bytes that could not be written since the last that could
	tail    []byte // the end of the output, for error messages
}

func openLogFile(path string) (*logFile, error) {
	l := &logFile{path: path}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if extra := len(l.tail) - logTailSize; extra > 0 {
		l.tail = append(l.tail[:0], l.tail[extra:]...)
	}
	if l.size+int64(len(p)) > logFileLimit {
		l.rotate()
	}
	if l.dropped > 0 {
		p = append(fmt.Appendf(nil, "[%d bytes of log lost: they could not be written]\n", l.dropped), p...)
	}
	if l.put(p) {
		l.dropped = 0
	} else {
		l.dropped += int64(len(p))
	}
	return len(p), nil
}

func (l *logFile) put(p []byte) bool {
	if l.file == nil && l.open() != nil {
		return false
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return err == nil
}

func (l *logFile) rotate() {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	if os.Rename(l.path, l.path+".1") != nil {
		os.Truncate(l.path, 0) // the limit matters more than the history
	}
	l.size = 0
}

// lastLines returns up to n lines of the end of the output.
func (l *logFile) lastLines(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := bytes.Split(bytes.TrimSpace(l.tail), []byte("\n"))
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return string(bytes.Join(lines, []byte("\n")))
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
