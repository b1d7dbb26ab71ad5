package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// scoreOf reads how readily the kernel kills a process when memory is short.
func scoreOf(t *testing.T, pid int) string {
	t.Helper()
	return strings.TrimSpace(content(t, fmt.Sprintf("/proc/%d/oom_score_adj", pid)))
}

// note stands for a kernel that takes every score.
func note(file, score string) error {
	f, err := os.OpenFile(file+".written", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(f, strings.TrimSpace(score), " ")
	return errors.Join(err, f.Close())
}

// given makes a file with a score.
func given(t *testing.T, score string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "score")
	if err := os.WriteFile(file, []byte(score), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// The kernel is this machine's, which may let nobody lower a score: then supervisor and command have the one that was given.
func TestTheCommandHasTheScoreThatItsSupervisorWasGiven(t *testing.T) {
	given := scoreOf(t, os.Getpid())
	p := start(t, t.TempDir(), sleepForever)
	pid := p.child(0)
	eventually(t, "the command has started", func() bool { return p.exists("started") })
	if got := scoreOf(t, pid); got != given {
		t.Errorf("the command's OOM score is %s, expected the %s that its supervisor was given", got, given)
	}
	want := given
	if s := newShelter(); s.enter() == nil {
		want = never
		t.Cleanup(func() {
			if err := s.write(s.file, s.former); err != nil {
				t.Error(err)
			}
		})
	}
	if got := scoreOf(t, p.cmd.Process.Pid); got != want {
		t.Errorf("the supervisor's OOM score is %s, expected %s where %s was given", got, want, given)
	}
}

func TestEachStartIsOutsideOfTheShelter(t *testing.T) {
	file := given(t, "-500\n")
	t.Setenv(withScore, file)
	p := start(t, t.TempDir(), sleepForever)
	pid, want := 0, never+" "
	for range 2 { // the first start, and the one after an end
		pid = p.child(pid)
		want += "-500 " + never + " "
		eventually(t, "the scores are "+want, func() bool { return content(t, file+".written") == want })
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatIsStartedHasTheScoreThatWasGiven(t *testing.T) {
	s := newShelter()
	s.file = given(t, "-500\n")
	if err := s.enter(); err != nil {
		t.Fatal(err)
	}
	during := ""
	if err := s.outside(func() { during = content(t, s.file) }); err != nil {
		t.Fatal(err)
	}
	if after := content(t, s.file); during != "-500\n" || after != never {
		t.Errorf("the score was %q during a start and %q after it, expected -500 and %s", during, after, never)
	}
}

func TestACommandIsStartedWhereTheKernelTakesNoScore(t *testing.T) {
	s := newShelter()
	s.file = given(t, "0\n")
	refuse := errors.New("permission denied")
	s.write = func(string, string) error { return refuse }
	if err := s.enter(); !errors.Is(err, refuse) || !strings.Contains(err.Error(), "OOM score") {
		t.Errorf("entering gave %v, expected %v and what it is about", err, refuse)
	}
	started := 0
	if err := s.outside(func() { started++ }); err != nil || started != 1 {
		t.Errorf("%d commands were started, %v; expected one", started, err)
	}
	// And where it changed its mind.
	s.former = "0\n"
	if err := s.outside(func() { started++ }); !errors.Is(err, refuse) || started != 2 {
		t.Errorf("%d commands were started, %v; expected two and %v", started, err, refuse)
	}
}
