package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// maxQueued bounds the frames that wait for a slow edge, maxCalls its calls without an answer, maxAsking those of them that are with the
// API server, maxHeld the bytes of its calls and writes without one, decompressed: beyond any of them nothing more is read from it.
// Budgets bound the sum of all.
const (
	maxQueued = 64
	maxCalls  = 64
	maxAsking = 16
	maxHeld   = 4 << 20
)

// conn is one session: a stream, its state machine, and at rest the one goroutine that reads.
type conn struct {
	hub   *Hub
	node  string
	id    string
	store string
	// process is the edge's own name for its process; empty from older edges.
	process string
	// software is what the edge says that it runs.
	software string
	stream   transport.Stream
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	done     chan struct{} // closed when the session is over
	tunnel   tunnel
	// bytes counts what was heard, so that one who looks twice knows whether anything was.
	bytes atomic.Uint64
	// last is when, as the time since the hub began.
	last atomic.Int64

	// mu guards all below.
	mu        sync.Mutex
	machine   *session.Hub
	welcomed  bool
	tunnels   bool          // both ends have the feature
	queue     []*wire.Frame // to be written, oldest first
	calls     int           // under way
	asked     int           // bytes of these
	asking    int           // calls that are with the API server
	expect    int           // bytes of a reply to one of these
	reading   int           // bytes of the frame that is being read, where it is large; pace of them are still to come in time, for the reader alone
	pace      int
	counted   int // of what came, and promised of replies: what the budgets know
	promised  int
	owed      int         // bytes of replies in queue and being written
	room      *sync.Cond  // signalled when queue, calls or writes shrink or the session ends
	flushing  bool        // a goroutine writes
	timer     *time.Timer // next Poll
	pong      uint64      // the id of the last one
	told      int64       // of last, what the machine knows
	alive     time.Time   // the last ping, and what it said
	aliveSaid session.Alive
	waiting   bool // the reader waits for room: what the edge says meanwhile is not heard
	ending    *session.Close
	over      bool
}

func (h *Hub) newConn(node string, s transport.Stream, hello *wire.Hello, log *slog.Logger) *conn {
	id := fmt.Sprintf("%s-%d", h.instance, h.serial.Add(1))
	c := &conn{hub: h, node: node, id: id, store: hello.Store, process: hello.Process, software: hello.Software, stream: s, log: log.With("session", id), done: make(chan struct{}), expect: firstReply}
	c.room = sync.NewCond(&c.mu)
	return c
}

// run serves the session until the stream ends.
func (c *conn) run(ctx context.Context, hello *wire.Frame) {
	defer close(c.done)
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	start := c.hub.deps.Now()
	// Changes that are told before the machine exists are seen by Hello, which reads the view.
	view, unsubscribe := c.hub.deps.Caches.Subscribe(c.node, c.changed)
	cfg := c.hub.cfg
	c.mu.Lock()
	c.machine = session.NewHub(session.HubConfig{Node: c.node, Session: c.id, Epoch: c.hub.currentEpoch(),
		Features: cfg.Features, Window: cfg.MaxInFlightBytes, Coalesce: cfg.Coalesce}, view, start)
	c.mu.Unlock()

	err := c.receive(hello)
	for err == nil {
		var f *wire.Frame
		if f, err = wire.ReadReserving(heard{c}, wire.MaxFrame, c.reserve); err == nil {
			err = c.receive(f)
		}
	}
	unsubscribe()
	c.finish(err)
	if c.welcomed {
		c.hub.deps.Nodes.Disconnected(c.node, c.id)
	}
	c.log.Info("edge disconnected", "reason", c.reason(err), "after", c.hub.deps.Now().Sub(start).Round(time.Millisecond))
}

// heard is the session's stream, with a note of what comes.
type heard struct{ c *conn }

func (h heard) Read(p []byte) (int, error) {
	if err := h.c.paced(); err != nil {
		return 0, err
	}
	n, err := h.c.stream.Read(p)
	h.c.pace -= n
	h.c.bytes.Add(uint64(n))
	h.c.last.Store(int64(h.c.hub.deps.Now().Sub(h.c.hub.began)))
	return n, err
}

// finish stops what runs beside the reader, and tells the edge why where the fault is its own.
func (c *conn) finish(err error) {
	c.mu.Lock()
	c.over = true
	c.account()
	c.hub.arriving.leave(c)
	c.hub.replies.leave(c)
	if c.timer != nil {
		c.timer.Stop()
	}
	c.room.Broadcast()
	protocol := errors.Is(err, session.ErrProtocol) || errors.Is(err, wire.ErrGarbage) || errors.Is(err, wire.ErrTooLarge)
	bye := c.ending
	if !errors.Is(err, wire.ErrNoRoom) || bye == nil || bye.Reason == wire.Reason_REASON_UNSPECIFIED {
		bye = nil // it is said by who ends the session, and the reader hears of it by the stream
	}
	c.mu.Unlock()
	if bye != nil {
		goodbye(c.stream, bye.Reason, bye.Message, c.hub.comeBack(bye.Reason))
	}
	if protocol {
		c.hub.metrics.refused.WithLabelValues("protocol").Inc()
		goodbye(c.stream, wire.Reason_REASON_PROTOCOL, err.Error(), 0)
	}
	_ = c.stream.Close()
	c.tunnel.end()
}

func (c *conn) reason(err error) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ending != nil:
		return c.ending.Message
	case errors.Is(err, io.EOF):
		return "the edge closed the connection"
	}
	return err.Error()
}

// receive gives a frame to the machine. It blocks while the edge does not read what it is owed.
func (c *conn) receive(f *wire.Frame) error {
	c.hub.metrics.frames.WithLabelValues("in", wire.Name(f)).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading > 0 {
		if err := c.stream.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	size := opened(f)
	c.wait(func() bool {
		return len(c.queue) < maxQueued && c.calls < maxCalls && c.came()-c.reading < maxHeld && c.owed < maxHeld &&
			(size <= max(small, c.reading) || c.grow(size, 2*c.hub.arriving.limit))
	})
	now := c.hub.deps.Now()
	if pong, ok := f.Body.(*wire.Frame_Pong); ok {
		c.pong = pong.Pong.GetId()
		c.room.Broadcast() // for answers, which waits for it
	}
	effects, err := c.machine.Receive(now, f)
	if err != nil {
		return err
	}
	c.handle(effects)
	c.reading = 0
	c.account()
	c.kick()
	return nil
}

// changed is told by the caches. It may be called before the machine exists: Hello then sees the change.
func (c *conn) changed(keys []object.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.machine == nil || c.over {
		return
	}
	c.machine.Changed(c.hub.deps.Now(), keys)
	c.kick()
}

// kick makes sure that a goroutine writes what there is. Called with mu held.
func (c *conn) kick() {
	if c.flushing || c.over || c.machine == nil {
		return
	}
	c.flushing = true
	go c.flush()
}

// flush writes until there is nothing to write, and then leaves a timer behind instead of itself.
func (c *conn) flush() {
	var buf wire.Buffer
	for {
		frames, bye := c.next()
		if frames == nil {
			if bye != nil {
				goodbye(c.stream, bye.Reason, bye.Message, c.hub.comeBack(bye.Reason))
			}
			return
		}
		var err error
		for len(frames) > 0 && err == nil {
			// Small frames go in one write. Bodies are not copied: a slow edge costs what it is behind in references.
			buf.Reset()
			replies := 0
			for len(frames) > 0 && buf.Len() < writeSize && err == nil {
				f := frames[0]
				frames[0], frames = nil, frames[1:]
				c.hub.metrics.sent(f)
				replies += len(f.GetReply().GetBody())
				err = buf.Append(f)
			}
			if err == nil {
				err = c.stream.WriteAll(buf.Chunks(), writePatience)
			}
			c.wrote(replies)
			if err == nil {
				c.hub.metrics.bytesOut.Add(float64(buf.Len()))
			}
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// writeSize is how much is written at once, in bytes, but for larger frames; writePatience is how long an edge may take to
// take the next piece of it (transport.Stream.WriteAll).
const (
	writeSize     = 64 << 10
	writePatience = time.Minute
)

// wrote notes that replies of that size are no longer the hub's.
func (c *conn) wrote(replies int) {
	if replies == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owed -= replies
	c.account()
	c.room.Broadcast()
}

// fail ends the session after a write failed. The reader may be waiting for room: it must hear of it.
func (c *conn) fail(err error) {
	c.log.Info("write failed", "error", err)
	c.mu.Lock()
	if c.ending == nil {
		c.ending = &session.Close{Message: "write failed: " + err.Error()}
	}
	c.room.Broadcast()
	c.mu.Unlock()
	_ = c.stream.Close()
}

// next returns the frames to write now. Without any the flusher ends: with a goodbye to say if the session is ending.
func (c *conn) next() (frames []*wire.Frame, bye *session.Close) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, nil
	}
	if c.ending != nil {
		c.room.Broadcast()
		return nil, c.ending
	}
	if len(c.queue) == 0 {
		now := c.hub.deps.Now()
		if at := c.last.Load(); at != c.told {
			c.told = at
			c.machine.Heard(c.hub.began.Add(time.Duration(at))) // of a frame that is still coming
			if c.reading > 0 {
				c.vouch()
			}
		}
		if c.waiting {
			c.machine.Heard(now)
		}
		effects, next := c.machine.Poll(now)
		c.handle(effects)
		if c.ending != nil {
			c.room.Broadcast()
			return nil, c.ending
		}
		if len(c.queue) == 0 {
			c.flushing = false
			c.arm(next.Sub(now))
			return nil, nil
		}
	}
	frames, c.queue = c.queue, nil
	c.room.Broadcast()
	return frames, nil
}

// arm sets the timer for the next Poll. Called with mu held.
func (c *conn) arm(d time.Duration) {
	d = max(d, time.Millisecond)
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
		return
	}
	c.timer.Reset(d)
}

func (c *conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kick()
}

// handle does what the machine asks for. Called with mu held.
func (c *conn) handle(effects []session.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case session.Send:
			c.queue = append(c.queue, e.Frame)
		case session.Close:
			if c.ending == nil {
				c.ending = &e
			}
		case session.Welcomed:
			// Not before: an edge that is turned away must not look alive.
			c.welcomed, c.tunnels = true, slices.Contains(e.Features, session.FeatureTunnel)
			c.hub.deps.Nodes.Connected(c.node, c.id, c.hub.cfg.Address, c.stream.Protocol())
			c.hub.metrics.connects.WithLabelValues(string(c.stream.Protocol())).Inc()
			c.log.Info("edge connected", "protocol", c.stream.Protocol(), "software", c.software)
			if untold := c.hub.strangers.Untold(e.Unknown); len(untold) > 0 {
				c.log.Info("the edge offers features that this hub does not know and goes without", "features", untold)
			}
		case session.DoWrite:
			go c.write(e.Write)
		case session.DoCall:
			c.calls++
			c.asked += len(e.Call.Body)
			go c.call(e.Call)
		case session.CheckRevision:
			go c.checkRevision()
		case session.DeclareRestore:
			go c.hub.restored(c.node, e)
		case session.Alive:
			c.alive, c.aliveSaid = c.hub.deps.Now(), e
			c.hub.deps.Nodes.Alive(c.node, c.id, e.LeaseAge, e.PingInterval)
			c.hub.metrics.edgeDropped(c.node, e.Dropped)
		}
	}
}

func (c *conn) write(w *wire.Write) {
	start := time.Now()
	r := c.hub.deps.Upstream.Apply(c.ctx, c.node, w)
	c.hub.metrics.written(w.Op, r.Code, time.Since(start))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handle(c.machine.Written(w, r))
	c.account()
	c.room.Broadcast()
	c.kick()
}

func (c *conn) call(m *wire.Call) {
	c.mu.Lock()
	for !c.over && c.ending == nil && !c.mayAsk() {
		c.room.Wait() // the edge reads its replies before it gets more
	}
	if c.over || c.ending != nil { // nobody hears the reply
		c.calls--
		c.asked -= len(m.Body)
		c.account()
		c.mu.Unlock()
		return
	}
	c.asking++
	c.account()
	c.mu.Unlock()
	r := c.hub.deps.Upstream.Call(c.ctx, c.node, m)
	r.Id = m.Id
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking--
	c.replied(len(r.Body))
	c.owed += len(r.Body)
	c.calls--
	c.asked -= len(m.Body)
	c.account()
	c.room.Broadcast()
	c.queue = append(c.queue, &wire.Frame{Body: &wire.Frame_Reply{Reply: r}})
	c.kick()
}

func (c *conn) checkRevision() {
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	rv, err := c.hub.deps.Caches.ServerRevision(ctx)
	if err != nil {
		c.log.Warn("the edge is ahead of the cache, and the API server cannot be asked", "error", err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handle(c.machine.RevisionChecked(rv))
	c.kick()
}

// send queues a frame that the machine need not know of.
func (c *conn) send(f *wire.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, f)
	c.kick()
}

// end closes the session with a reason.
func (c *conn) end(reason wire.Reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending == nil {
		c.ending = &session.Close{Reason: reason, Message: message}
	}
	c.room.Broadcast()
	if c.flushing || c.over {
		// The flusher says goodbye when its write is through; one that is stuck must not hold up the end.
		time.AfterFunc(2*time.Second, func() { _ = c.stream.Close() })
		return
	}
	c.kick()
}

func (c *conn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// How long a session may take to show that its edge is there before another takes its place.
const (
	strangerDoubt = 3 * time.Second
	// copyDoubt is short: most often the edge was restarted, and nobody told its former connection.
	copyDoubt = time.Second
)

// doubt is how long to wait for a sign of life of c before next, of the same node, may take its place; 0 if there is no doubt that
// it may.
func (c *conn) doubt(next *conn) time.Duration {
	switch {
	case c.store != next.store:
		return strangerDoubt
	case c.process != "" && next.process != "" && c.process != next.process:
		return copyDoubt // a copy of the machine's disk has the same store
	}
	return 0
}

// insists is when next, which c was held to be alive against, is to come back: soon if it may be the same machine, whose former
// connection something on the way kept alive, so that its Lease does not run out.
func (c *conn) insists(next *conn) time.Duration {
	if c.store == next.store {
		return 5 * time.Second
	}
	return time.Minute
}

// answers asks the edge for a sign of life and reports whether it came in time. What else comes may have been on its way since before
// the edge died. One that the hub keeps waiting is not heard: it counts as there, unless a machine of the same store says that it is the one.
func (c *conn) answers(ctx context.Context, wait time.Duration, same bool) bool {
	deadline := time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.room.Broadcast()
	})
	defer deadline.Stop()
	until := time.Now().Add(wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	id := rand.Uint64() | 1<<63 // none of the machine's, which count
	c.queue = append(c.queue, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{Id: id, LeaseAgeMs: -1}}})
	c.kick()
	for c.pong != id && (!c.waiting || same) && !c.over && ctx.Err() == nil && time.Now().Before(until) {
		c.room.Wait()
	}
	return (c.pong == id || c.waiting && !same) && !c.over
}
