package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDelayDoublesFromOneSecondToFiveMinutes(t *testing.T) {
	want := map[int]time.Duration{
		-1: 0, 0: 0, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 9: 256 * time.Second,
		10: 5 * time.Minute, 11: 5 * time.Minute, 1 << 40: 5 * time.Minute,
	}
	for attempts, d := range want {
		if got := delayAfter(attempts); got != d {
			t.Errorf("after %d failed tries: delay %v, expected %v", attempts, got, d)
		}
	}
}

func TestMarkTellsTheNextProcessHowTheLastOneEnded(t *testing.T) {
	dir := t.TempDir()
	m := &marks{dir: dir, boot: "boot-1"}
	expectFailed(t, m, 0, "")
	if err := m.set(3, time.Now()); err != nil {
		t.Fatal(err)
	}
	m.note("a long early error: " + strings.Repeat("x", 100))
	m.note("Failed to start ContainerManager: no cgroups")

	next := &marks{dir: dir, boot: "boot-1"}
	expectFailed(t, next, 3, "the kubelet's last error: Failed to start ContainerManager: no cgroups")

	expectFailed(t, &marks{dir: dir, boot: "boot-2"}, 0, "") // a power cut is not the kubelet's doing

	if err := next.clear(0, time.Now()); err != nil {
		t.Fatal(err)
	}
	expectFailed(t, next, 0, "")
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("after clear: expected an empty directory, found %v", left)
	}
}

// A process that was killed while its kubelet started has not failed by the kubelet; one that is killed every time may have.
func TestAKillIsNoFailedStartUnlessItIsTheRule(t *testing.T) {
	dir := t.TempDir()
	next := func(killed bool) *marks { return &marks{dir: dir, boot: "b", killed: killed} }
	start := func(m *marks, attempts int, reason string) {
		t.Helper()
		expectFailed(t, m, attempts, reason)
		if err := m.set(attempts+1, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	start(next(true), 0, "") // no mark: the first start of all
	for range sparedKills {
		start(next(true), 0, "")
	}
	for i := 1; i <= 3; i++ {
		start(next(true), i, fmt.Sprintf("the process was killed %d times in a row while the kubelet started", sparedKills+i))
	}
	start(next(false), 4, "the process ended without a word from the kubelet")
	start(next(true), 4, "") // it is spared again, and what failed before still counts
	start(next(false), 5, "the process ended without a word from the kubelet")
}

func TestWordsBeforeAndAfterAStartAreNotKept(t *testing.T) {
	m := &marks{dir: t.TempDir(), boot: "b"}
	m.note("before")
	if err := m.set(1, time.Now()); err != nil {
		t.Fatal(err)
	}
	expectFailed(t, m, 1, "the process ended without a word from the kubelet")
	if err := m.clear(0, time.Now()); err != nil {
		t.Fatal(err)
	}
	m.note("after")
	if _, err := os.Stat(filepath.Join(m.dir, reasonFile)); err == nil {
		t.Error("words said after the kubelet was stable were kept")
	}
}

func TestDamagedMarkCountsAsOneFailedStart(t *testing.T) {
	for _, content := range []string{"", "{", "\x00\x00\x00"} {
		m := &marks{dir: t.TempDir(), boot: "b"}
		if err := os.WriteFile(filepath.Join(m.dir, markFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if attempts, reason := m.failed(); attempts != 1 || !strings.Contains(reason, "cannot be read") {
			t.Errorf("mark %q: attempts %d, reason %q", content, attempts, reason)
		}
	}
}

func TestReasonIsBounded(t *testing.T) {
	m := &marks{dir: t.TempDir(), boot: "b"}
	if err := m.set(1, time.Now()); err != nil {
		t.Fatal(err)
	}
	m.note(strings.Repeat("x", 10*maxReason))
	if info, err := os.Stat(filepath.Join(m.dir, reasonFile)); err != nil || info.Size() != maxReason {
		t.Errorf("reason file: %v, %v; expected %d bytes", info, err, maxReason)
	}
}

func expectFailed(t *testing.T, m *marks, attempts int, reason string) {
	t.Helper()
	if gotAttempts, gotReason := m.failed(); gotAttempts != attempts || gotReason != reason {
		t.Errorf("failed() = %d, %q; expected %d, %q", gotAttempts, gotReason, attempts, reason)
	}
}
