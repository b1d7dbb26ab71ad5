package supervise

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestALogIsTurnedOverUnderItsWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edgecore.log")
	l, err := OpenLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bound := func() {
		t.Helper()
		if err := l.bound(); err != nil {
			t.Fatal(err)
		}
	}
	first, second := strings.Repeat("a", 100), strings.Repeat("b", 70)
	write(t, l.File(), first)
	bound()
	if got := content(t, path); got != first {
		t.Errorf("a log that is not too large became %q", got)
	}
	write(t, l.File(), second)
	bound()
	write(t, l.File(), "the next")
	if got := content(t, path); got != "the next" {
		t.Errorf("the log is %q", got)
	}
	// The size is what may be left of it, also where more came than it holds.
	if got, want := content(t, FormerLog(path)), (first + second)[70:]; got != want {
		t.Errorf("the former log is %q, expected %q", got, want)
	}
	write(t, l.File(), first)
	bound()
	if got, want := content(t, FormerLog(path)), ("the next" + first)[8:]; got != want {
		t.Errorf("the former log is then %q, expected %q", got, want)
	}
}

// A log is bounded also where its former part cannot be kept.
func TestALogThatCannotBeKeptBeginsAnewAllTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edgecore.log")
	l, err := OpenLog(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.MkdirAll(filepath.Join(FormerLog(path), "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, l.File(), "more than it may hold")
	if err := l.bound(); err == nil || content(t, path) != "" {
		t.Errorf("%v, the log is %q", err, content(t, path))
	}
}

func TestTheCommandsLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(withLog, "1")
	p := start(t, dir, `while :; do echo line of the command; sleep 0.005; done`)
	p.child(0)
	path := filepath.Join(dir, "log")
	eventually(t, "the log is turned over", func() bool {
		b, err := os.ReadFile(FormerLog(path))
		return err == nil && strings.Contains(string(b), "line of the command\n") && len(b) <= testLogSize
	})
	eventually(t, "the command writes to the next", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.HasPrefix(string(b), "line of the command\n")
	})
}
