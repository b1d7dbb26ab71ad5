package drill

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Moment is a point in time by two clocks, since neither will do alone: Wall may be put right, or wrong; Up knows nothing of
// other boots.
type Moment struct {
	Wall time.Time `json:"wall"`
	// Up is the time since the machine booted, that in which it slept included.
	Up time.Duration `json:"up"`
	// Boot names the boot.
	Boot string `json:"boot"`
}

// Clock returns a clock of Moments of this machine, whose Wall is wall's.
func Clock(wall func() time.Time) (func() Moment, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the name of this boot: %w", err)
	}
	return func() Moment {
		var up unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) // Linux has it
		return Moment{Wall: wall(), Up: time.Duration(up.Nano()), Boot: strings.TrimSpace(string(boot))}
	}, nil
}

// since is how long after e this is: exact within one boot, else what the wall clock says, and never negative.
func (m Moment) since(e Moment) time.Duration {
	if m.Boot == e.Boot {
		return max(0, m.Up-e.Up)
	}
	return max(0, m.Wall.Sub(e.Wall))
}
