package supervise

import (
	"errors"
	"fmt"
	"os"
)

// ownScore is where the kernel keeps how readily it kills this process when memory is short: from -1000, never, to 1000.
const ownScore = "/proc/self/oom_score_adj"

// never is the score of a process that the kernel does not kill for want of memory. The kubelet gives itself -999, with which an
// older kernel counts any process as the smallest there is: of two of them the first that it finds goes.
const never = "-1000"

// A shelter keeps the supervisor from being killed for want of memory: its command would go with it, and nobody would start
// either again. The command is started outside, with the score that the supervisor was given: where nothing can be killed the
// kernel has no way out.
type shelter struct {
	file   string
	write  func(file, score string) error
	former string // the score outside; empty if there is no shelter
}

func newShelter() shelter {
	return shelter{file: ownScore, write: func(file, score string) error { return os.WriteFile(file, []byte(score), 0o644) }}
}

// enter finds out whether there is shelter. An error says why there is none: without CAP_SYS_RESOURCE the kernel takes no score
// below the one that was given, of the command no more than of its supervisor.
func (s *shelter) enter() error {
	former, err := os.ReadFile(s.file)
	if err == nil {
		err = s.write(s.file, never)
	}
	if err != nil {
		return fmt.Errorf("lower the supervisor's OOM score: %w", err)
	}
	s.former = string(former)
	return nil
}

// outside starts a command, which inherits what is so at the moment; a score that it were given afterwards would come too late
// for the children that it has by then. An error is one of the scores, whatever came of the start.
func (s *shelter) outside(start func()) error {
	if s.former == "" {
		start()
		return nil
	}
	err := s.write(s.file, s.former)
	start()
	if err = errors.Join(err, s.write(s.file, never)); err != nil {
		return fmt.Errorf("leave and enter the supervisor's OOM score: %w", err)
	}
	return nil
}
