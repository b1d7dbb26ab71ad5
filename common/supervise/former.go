package supervise

import "os"

// FormerEndEnv names the environment variable by which a supervised command hears how the one before it ended. The unit of
// systemd sets it too.
const FormerEndEnv = "TETHER_FORMER_END"

// What it says.
const (
	endNone   = "none"   // this is the supervisor's first
	endExit   = "exit"   // it ended by itself
	endSignal = "signal" // it was killed
)

// FormerWasKilled reports whether the process before this one, if there was any, is known not to have ended by itself: a
// signal killed it, or its supervisor with it.
func FormerWasKilled() bool {
	end := os.Getenv(FormerEndEnv)
	return end == endNone || end == endSignal
}

// Supervised reports whether somebody starts this process again should it be killed: a supervisor says how the one before it ended.
func Supervised() bool { return os.Getenv(FormerEndEnv) != "" }
