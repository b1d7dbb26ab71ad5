package netem

import (
	"errors"
	"fmt"
	"time"
)

// Settings are what happens to the frames of one direction. The zero value lets everything pass at once.
type Settings struct {
	// Delay is how long a frame is on its way, after it was transmitted.
	Delay time.Duration
	// Jitter is added to Delay, evenly from 0 to this. Frames still keep their order, as on a real cable.
	Jitter time.Duration
	// Loss is the probability that a frame is lost, 0 to 1. With 1 the relay is a black hole.
	Loss float64
	// NoUDP loses every frame that carries UDP over IPv4, as many a firewall does.
	NoUDP bool
	// Rate is the bandwidth in bytes per second, of whole frames; 0 is no limit.
	Rate int64
	// Queue is how many bytes may wait for transmission where there is a Rate; what comes on top is dropped. 0 means
	// DefaultQueue. A frame that finds the queue empty is always taken.
	Queue int64
}

// DefaultQueue is the bytes that wait for transmission where Settings names none: that of a small router.
const DefaultQueue = 64 << 10

// maxDelay is more than any network has.
const maxDelay = time.Hour

// Validate returns every fault of the settings.
func (s Settings) Validate() error {
	var faults []error
	check := func(ok bool, field, expected string, found any) {
		if !ok {
			faults = append(faults, fmt.Errorf("%s: expected %s, found %v", field, expected, found))
		}
	}
	check(s.Delay >= 0 && s.Delay <= maxDelay, "delay", "0 to "+maxDelay.String(), s.Delay)
	check(s.Jitter >= 0 && s.Jitter <= maxDelay, "jitter", "0 to "+maxDelay.String(), s.Jitter)
	check(s.Loss >= 0 && s.Loss <= 1, "loss", "a share from 0 to 1", s.Loss)
	check(s.Rate >= 0, "rate", "bytes per second, or 0 for no limit", s.Rate)
	check(s.Queue >= 0, "queue", "bytes, or 0 for the default", s.Queue)
	return errors.Join(faults...)
}

// Counters are what became of the frames of one direction since the relay was made.
type Counters struct {
	// Received frames were taken from the link; each of them is counted below once it is out of Held.
	Received uint64
	// Held frames are in the relay now.
	Held uint64
	// Sent frames left on the other link; SentBytes is their length.
	Sent, SentBytes uint64
	// Lost frames fell to Settings.Loss or NoUDP.
	Lost uint64
	// Overflowed frames found the queue full.
	Overflowed uint64
	// Refused frames could not be sent: the other link is down, or they are longer than it allows.
	Refused uint64
	// Missed frames are not in Received: they came faster than the relay could take them.
	Missed uint64
}
