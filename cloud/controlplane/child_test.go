package controlplane

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// shellChild runs a shell script in place of a component.
func shellChild(t *testing.T, log *slog.Logger, script string) (*child, string) {
	t.Helper()
	dir := t.TempDir()
	exe := filepath.Join(dir, "component.sh")
	if err := os.WriteFile(exe, []byte("#!/bin/sh\ncd "+dir+"\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	output, err := openLogFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close(); output.close() })
	c, err := startChild(child{name: "fake", executable: exe, lock: lock, output: output, log: log, stopGrace: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func lines(path string) int {
	body, _ := os.ReadFile(path)
	return strings.Count(string(body), "\n")
}

func TestComponentThatDiesIsStartedAgainAndSaidSo(t *testing.T) {
	var said lockedBuffer
	c, dir := shellChild(t, slog.New(slog.NewTextHandler(&said, nil)), "echo run >>runs\necho oh dear >&2\nexit 3\n")
	eventually(t, 20*time.Second, "a second start", func() error {
		if n := lines(filepath.Join(dir, "runs")); n < 2 {
			return fmt.Errorf("%d starts", n)
		}
		return nil
	})
	c.stop()
	if !strings.Contains(said.String(), "component ended, starting it again") || !strings.Contains(said.String(), "exit status 3") {
		t.Errorf("the log says only: %s", said.String())
	}
	if !strings.Contains(c.output.lastLines(10), "oh dear") {
		t.Errorf("its output was lost: %q", c.output.lastLines(10))
	}
}

func TestStopIsAskedForFirstAndThenForced(t *testing.T) {
	for name, trap := range map[string]string{
		"one that obeys":   `trap 'echo asked >>asked; exit 0' TERM`,
		"one that ignores": `trap 'echo asked >>asked' TERM`,
	} {
		t.Run(name, func(t *testing.T) {
			c, dir := shellChild(t, testLog(t), trap+"\necho >up\nwhile :; do sleep 0.05; done\n")
			eventually(t, 10*time.Second, "the script runs", func() error {
				_, err := os.Stat(filepath.Join(dir, "up"))
				return err
			})
			c.stop() // returns once it is gone
			if lines(filepath.Join(dir, "asked")) != 1 {
				t.Error("it was not asked by SIGTERM")
			}
		})
	}
}

func TestEnvironmentDoesNotChangeTheFlags(t *testing.T) {
	got := childEnvironment([]string{"PATH=/bin", "ETCD_DATA_DIR=/elsewhere", "NOTIFY_SOCKET=/run/x", "HOME=/"})
	if !slices.Equal(got, []string{"PATH=/bin", "HOME=/"}) {
		t.Errorf("got %q", got)
	}
}
