package netem

import (
	"math/rand/v2"
	"sync"
	"time"
)

// maxHeld is the limit of every direction: 0.5 s at 1 Gbit/s.
const maxHeld = 64 << 20

// frame is one frame on its way.
type frame struct {
	data    []byte
	through time.Time // when its last byte has been transmitted
	due     time.Time // when it may arrive
}

// pipe is one direction: a queue before a transmitter of limited rate, and a length of cable behind it. It does no I/O
// and reads no clock.
type pipe struct {
	mu       sync.Mutex // guards all below
	settings Settings
	loss     *rand.Rand
	jitter   *rand.Rand
	// frames are in the order of arrival and leave in it: one that is due waits for those before it.
	frames []frame
	held   int64     // bytes in frames
	limit  int64     // of held, whatever the settings
	free   time.Time // when the transmitter is done with all of them
	counts Counters
	// wake has a value when the first frame's due time may have changed.
	wake chan struct{}
}

func newPipe(s Settings, seed, stream uint64) *pipe {
	return &pipe{settings: s, limit: maxHeld, wake: make(chan struct{}, 1),
		loss: rand.New(rand.NewPCG(seed, 2*stream)), jitter: rand.New(rand.NewPCG(seed, 2*stream+1))}
}

// put takes a frame that arrived now; data is the caller's again afterwards.
func (p *pipe) put(now time.Time, data []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Received++
	// One number for each frame, whatever the settings: a change of them leaves the fate of later frames as it was.
	if p.loss.Float64() < p.settings.Loss || p.settings.NoUDP && isUDP(data) {
		p.counts.Lost++
		return
	}
	size := int64(len(data))
	if p.held+size > p.limit || p.settings.Rate > 0 && p.waiting(now) > 0 && p.waiting(now)+size > p.settings.queue() {
		p.counts.Overflowed++
		return
	}
	f := frame{data: append([]byte(nil), data...)}
	p.schedule(now, &f)
	p.frames = append(p.frames, f)
	p.held += size
	if len(p.frames) == 1 {
		p.signal()
	}
}

// isUDP reports whether an Ethernet frame carries UDP over IPv4 (RFC 791, section 3.1: version in the first byte, protocol
// in the tenth).
func isUDP(frame []byte) bool {
	const version, protocol = 14, 14 + 9
	return len(frame) > protocol && frame[12] == 0x08 && frame[13] == 0 && frame[version]>>4 == 4 && frame[protocol] == 17
}

func (s Settings) queue() int64 {
	if s.Queue == 0 {
		return DefaultQueue
	}
	return s.Queue
}

// waiting is how many bytes are not yet transmitted.
func (p *pipe) waiting(now time.Time) int64 {
	if !p.free.After(now) {
		return 0
	}
	return int64(p.free.Sub(now).Seconds() * float64(p.settings.Rate))
}

// schedule gives a frame its times, behind all that went before.
func (p *pipe) schedule(now time.Time, f *frame) {
	p.free = later(p.free, now)
	if p.settings.Rate > 0 {
		p.free = p.free.Add(time.Duration(float64(len(f.data)) / float64(p.settings.Rate) * float64(time.Second)))
	}
	f.through = p.free
	f.due = f.through.Add(p.settings.Delay)
	if p.settings.Jitter > 0 {
		f.due = f.due.Add(time.Duration(p.jitter.Int64N(int64(p.settings.Jitter) + 1)))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// set changes the settings now. Frames on the cable arrive when they would have; those not yet transmitted get the new
// rate and delay.
func (p *pipe) set(now time.Time, s Settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = s
	p.free = now
	for i := range p.frames {
		if f := &p.frames[i]; f.through.After(now) {
			p.schedule(now, f)
		}
	}
	p.signal()
}

// signal lets the sender look again. The caller holds mu.
func (p *pipe) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// idle is how long a sender may sleep while nothing is held.
const idle = time.Hour

// take returns a frame that is due, or nil and how long to wait for the next unless wake comes first.
func (p *pipe) take(now time.Time) (data []byte, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.frames) == 0 {
		return nil, idle
	}
	f := p.frames[0]
	if wait := f.due.Sub(now); wait > 0 {
		return nil, wait
	}
	p.frames[0] = frame{}
	p.frames = p.frames[1:]
	p.held -= int64(len(f.data))
	return f.data, 0
}

// done counts a frame that take returned.
func (p *pipe) done(data []byte, sent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !sent {
		p.counts.Refused++
		return
	}
	p.counts.Sent++
	p.counts.SentBytes += uint64(len(data))
}

func (p *pipe) missed(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Missed += n
}

func (p *pipe) counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	// Computed, so that a frame between take and done is held too.
	c.Held = c.Received - c.Sent - c.Lost - c.Overflowed - c.Refused
	return c
}
