package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// errHandshake marks a session that ended before its Welcome; errUnwanted one that the hub ended because of this edge;
// errStore one that ended because the database failed; errSilent one in which the hub was no longer heard.
var (
	errHandshake = errors.New("the server ended the handshake")
	errUnwanted  = errors.New("the hub does not want this session")
	errStore     = errors.New("the local database failed")
	errSilent    = errors.New("the hub fell silent")
)

// ended says how a session went.
type ended struct {
	err      error
	welcomed bool
	// comeBack is when the hub wants to see this edge again; 0 if it did not say.
	comeBack time.Duration
}

// peer is one session. Its fields belong to the goroutine of serve, but for the channels.
type peer struct {
	l        *Link
	way      Way
	machine  *session.Edge
	out      *writer
	apply    *applier
	calls    chan *pendingCall
	waiting  map[uint64]*pendingCall
	nextCall uint64
	outbox   Outbox
	welcomed bool
	comeBack time.Duration
	again    bool // a write that was to be sent was gone
	stream   transport.Stream
	session  string
	tunnels  sync.WaitGroup // what runs beside the sync
	// endTunnel ends the second connection, if there is or was one.
	endTunnel context.CancelFunc
	partly    bool          // something had no room on the disk
	undone    atomic.Bool   // what the cloud may have lost had no room to be written again
	done      chan struct{} // closed when the session is over
	began     time.Time
	heard     atomic.Int64 // when something came last, since began
}

// serve runs one session on the stream until it ends.
func (l *Link) serve(ctx context.Context, stream transport.Stream, way Way) ended {
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &peer{l: l, way: way, stream: stream, calls: make(chan *pendingCall), waiting: map[uint64]*pendingCall{}, done: make(chan struct{}), began: l.deps.Now()}
	frames, readErr := make(chan *wire.Frame), make(chan error, 1)
	err := p.open(sctx, stream)
	if err == nil {
		go p.read(sctx, frames, readErr)
		err = p.loop(sctx, frames, readErr)
		if errors.Is(err, errShut) {
			_ = stream.Close() // nothing more goes out
		}
		cancel()
		// What was queued, a goodbye included, gets a second.
		_ = stream.SetWriteDeadline(time.Now().Add(time.Second))
		<-p.out.done
		_ = stream.Close()
		// The next Hello speaks of what this session committed.
		<-p.apply.done
	}
	_ = stream.Close()
	cancel()
	p.tunnels.Wait()
	if p.undone.Load() {
		l.displaced = true
	}
	close(p.done)
	l.mu.Lock()
	l.current = nil
	l.mu.Unlock()
	if p.outbox != nil {
		p.outbox.Close()
	}
	if err == nil {
		err = errors.New("the session ended")
	}
	if !p.welcomed && !errors.Is(err, errStore) {
		err = fmt.Errorf("%w: %w", errHandshake, err)
	}
	return ended{err: err, welcomed: p.welcomed, comeBack: p.comeBack}
}

// open reads what the edge holds and prepares the session.
func (p *peer) open(ctx context.Context, stream transport.Stream) error {
	s := p.l.deps.Store
	digests, err := s.Digests(ctx)
	if err != nil {
		return fmt.Errorf("%w: read digests: %w", errStore, err)
	}
	uid, err := s.NodeUID(ctx)
	if err != nil {
		return fmt.Errorf("%w: read the Node: %w", errStore, err)
	}
	if p.outbox, err = s.Outbox(ctx); err != nil {
		return fmt.Errorf("%w: open the outbox: %w", errStore, err)
	}
	p.machine = session.NewEdge(session.EdgeConfig{Node: p.l.cfg.Node, Software: p.l.cfg.Software, Features: p.l.features(),
		Store: s.ID(), Process: p.l.process, PingInterval: p.l.cfg.PingInterval, Rand: p.l.random}, session.Held{Digests: digests, NodeUID: uid, Epoch: s.Epoch()})
	p.out = newWriter(stream, p.l.metrics)
	p.apply = newApplier(p.l)
	go p.out.run(ctx)
	go p.apply.run(ctx)
	return nil
}

func (p *peer) read(ctx context.Context, frames chan<- *wire.Frame, failed chan<- error) {
	for {
		f, err := wire.Read(heard{p}, wire.MaxFrame)
		if err != nil {
			failed <- err
			return
		}
		select {
		case frames <- f:
		case <-ctx.Done():
			failed <- ctx.Err()
			return
		}
	}
}

// heard is the session's stream, with a note of when something came.
type heard struct{ p *peer }

func (h heard) Read(b []byte) (int, error) {
	n, err := h.p.stream.Read(b)
	if n > 0 {
		h.p.heard.Store(int64(h.p.l.deps.Now().Sub(h.p.began)))
	}
	return n, err
}

// loop owns the machine. It never blocks on the stream or the database.
func (p *peer) loop(ctx context.Context, frames <-chan *wire.Frame, failed <-chan error) error {
	l := p.l
	now := l.deps.Now
	if err := p.do(ctx, p.machine.Start(now())); err != nil {
		return err
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var again <-chan time.Time
	var told int64
	for {
		if at := p.heard.Load(); at != told {
			told = at
			p.machine.Heard(p.began.Add(time.Duration(at)))
		}
		effects, next := p.machine.Poll(now(), session.Vitals{LeaseAge: l.deps.LeaseAge(), Dropped: l.deps.Store.Dropped()})
		p.again = false
		if err := p.do(ctx, effects); err != nil {
			return err
		}
		if p.again {
			continue // what was gone left room for another write
		}
		timer.Reset(max(next.Sub(now()), time.Millisecond))
		var err error
		select {
		case f := <-frames:
			effects, err = p.machine.Receive(now(), f)
			if err == nil {
				err = p.do(ctx, effects)
			}
		case err = <-failed:
			err = lostError("read", err)
		case err = <-p.out.failed:
			err = lostError("write", err)
		case a := <-p.apply.results:
			if a.err != nil {
				err = fmt.Errorf("%w: %w", errStore, a.err)
				break
			}
			if a.partly && again == nil {
				p.partly = true
				p.full()
				again = time.After(l.askAgain())
			}
			err = p.do(ctx, p.machine.Applied(a.seq))
		case <-again:
			err = errors.New("the disk had no room for all: asking the cloud again for what did not fit")
		case <-p.outbox.C():
			err = p.takeOutbox(ctx)
		case c := <-p.calls:
			p.call(c)
		case <-timer.C:
		case <-ctx.Done():
			if cause := context.Cause(ctx); errors.Is(cause, errShut) {
				return cause
			}
			p.out.send(&wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{Reason: wire.Reason_REASON_DRAIN, Message: "edgecore stops"}}})
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// askAgain and askAgainMost are how long a session lasts in which something had no room on the disk, the first time and at
// most: the next one brings what is missing, and there may be room by then. Meanwhile all else goes on.
const askAgain, askAgainMost = time.Minute, time.Hour

// askAgain is how long this one lasts: twice as long after each that did not help. It belongs to the goroutine of Start.
func (l *Link) askAgain() time.Duration {
	l.unfit++
	return min(askAgain<<min(l.unfit-1, 6), askAgainMost)
}

// full tells people that the node does not hold all that it should.
func (p *peer) full() {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	p.l.status.Problem = "the disk has no room for some objects from the cloud: free some, they are asked for again in a while"
}

// do carries out the machine's effects.
func (p *peer) do(ctx context.Context, effects []session.Effect) error {
	for _, e := range effects {
		var err error
		switch e := e.(type) {
		case session.Send:
			p.out.send(e.Frame)
		case session.Close:
			return p.closed(e)
		case session.Welcomed:
			err = p.welcome(ctx, e)
		case session.SendInventory:
			err = p.inventory(ctx, e.Kind)
		case session.ApplyBatch:
			p.apply.add(job{batch: e.Batch})
		case session.MarkSynced:
			p.apply.add(job{kinds: e.Kinds})
			if !p.partly {
				l := p.l
				l.unfit = 0
				p.synced(e.Restored)
			}
		case session.SendWrite:
			err = p.write(ctx, e.ID)
		case session.DropWrite:
			err = p.drop(ctx, e)
		case session.WriteFailed:
			p.failed(e)
		case session.Answer:
			p.answer(e.Reply)
		case session.OpenTunnel:
			p.openTunnel(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lostError tells silence from a word of the other side.
func lostError(what string, err error) error {
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		return fmt.Errorf("%s: %w: %w", what, errSilent, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (p *peer) closed(c session.Close) error {
	p.comeBack = c.ComeBack
	switch c.Reason {
	case wire.Reason_REASON_PROTOCOL, wire.Reason_REASON_REFUSED, wire.Reason_REASON_REPLACED:
		// Of the refusals only the one for another machine's sake says when to come back.
		if c.Reason == wire.Reason_REASON_REPLACED || c.Reason == wire.Reason_REASON_REFUSED && c.ComeBack > 0 {
			p.l.displaced = true
		}
		return fmt.Errorf("%w (%s): %s", errUnwanted, c.Reason, c.Message)
	case wire.Reason_REASON_UNSPECIFIED: // the machine's own: no ping was answered
		return fmt.Errorf("%w: %s", errSilent, c.Message)
	case wire.Reason_REASON_DRAIN:
		p.l.ways.sent(p.way)
	}
	return fmt.Errorf("closed (%s): %s", c.Reason, c.Message)
}

func (p *peer) welcome(ctx context.Context, w session.Welcomed) error {
	l := p.l
	p.welcomed, p.session = true, w.Frame.Session
	if untold := l.strangers.Untold(w.Unknown); len(untold) > 0 {
		l.deps.Log.Info("the hub offers features that this edge does not know and goes without", "features", untold)
	}
	if err := p.doubt(ctx, w.Frame.Epoch); err != nil {
		return err
	}
	l.mu.Lock()
	l.current = p
	l.status = Status{Connected: true, Server: p.way.Server, Protocol: p.way.Protocol, Session: w.Frame.Session, Since: l.deps.Now()}
	l.mu.Unlock()
	l.metrics.connects.WithLabelValues(string(p.way.Protocol)).Inc()
	if ms := w.Frame.ServerTimeUnixMs; ms > 0 && l.deps.ServerTime != nil {
		l.deps.ServerTime(time.UnixMilli(ms))
	}
	if carrier, ok := transport.CarrierOf(p.stream); ok && l.deps.Tunnel != nil {
		p.tunnels.Go(func() { p.serveStreams(ctx, carrier) })
	}
	l.deps.Log.Info("link is up", "server", p.way.Server, "protocol", p.way.Protocol, "session", w.Frame.Session, "differs", w.Frame.Want)
	if l.deps.Connected != nil {
		p.tunnels.Go(func() { l.deps.Connected(ctx) })
	}
	return p.takeOutbox(ctx)
}

func (p *peer) synced(restored bool) {
	l := p.l
	l.mu.Lock()
	l.status.Synced = true
	l.mu.Unlock()
	if restored {
		l.deps.Log.Warn("the cluster was restored from a backup: older versions were taken over")
	}
	l.deps.Log.Info("in sync with the cloud")
}

// inventory sends what the store holds of a kind.
func (p *peer) inventory(ctx context.Context, kind object.ID) error {
	m := &wire.Inventory{Kind: string(kind)}
	err := p.l.deps.Store.Inventory(ctx, kind, func(k object.Key, v object.Version) error {
		m.Entries = append(m.Entries, &wire.InventoryEntry{Namespace: k.Namespace, Name: k.Name, Uid: v.UID, ResourceVersion: v.RV})
		if len(m.Entries) == wire.MaxInventoryEntries {
			m.More = true
			p.out.send(&wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
			m = &wire.Inventory{Kind: string(kind)}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: list %s: %w", errStore, kind, err)
	}
	p.out.send(&wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}})
	return nil
}

func (p *peer) takeOutbox(ctx context.Context) error {
	added, gone, err := p.outbox.Take(ctx)
	if err != nil {
		return fmt.Errorf("%w: read the outbox: %w", errStore, err)
	}
	for _, h := range added {
		p.machine.Queued(h)
	}
	for _, id := range gone {
		p.machine.Gone(id)
	}
	return nil
}

func (p *peer) write(ctx context.Context, id uint64) error {
	o, ok, err := p.l.deps.Store.Load(ctx, id)
	if err != nil {
		return fmt.Errorf("%w: read a queued write: %w", errStore, err)
	}
	if !ok {
		p.machine.Unsent(id)
		p.again = true
		return nil
	}
	body, packed := p.l.deps.Codec.Compress(o.Body)
	w := &wire.Write{Id: id, Kind: string(o.Key.Kind), Namespace: o.Key.Namespace, Name: o.Key.Name, Op: wire.Op(o.Op), Uid: o.UID,
		Body: body, CreatedUnixMs: o.Created.UnixMilli(), Class: wire.MessageClass(o.Class), Priority: int32(o.Priority),
		FullPolicy: wire.FullPolicy(o.Policy)}
	if packed {
		w.Compression = wire.Compression_COMPRESSION_ZSTD
	}
	if !o.Expires.IsZero() {
		w.ExpiresUnixMs = o.Expires.UnixMilli()
	}
	p.out.send(&wire.Frame{Body: &wire.Frame_Write{Write: w}})
	return nil
}

// failed tells of a write that is not taken: at its first, second, fourth... failure in a row.
func (p *peer) failed(e session.WriteFailed) {
	p.l.metrics.failed.Inc()
	if e.Failures&(e.Failures-1) == 0 {
		p.l.deps.Log.Warn("the cloud did not take a write, it is tried again", "key", e.Key.String(), "failures", e.Failures,
			"again", e.Again.Round(time.Millisecond), "code", e.Result.Code, "reason", e.Result.Reason, "message", e.Result.Message)
	}
}

func (p *peer) drop(ctx context.Context, e session.DropWrite) error {
	r := e.Result
	p.l.metrics.delivered.Inc()
	if r.Code >= 400 && r.Code != 404 {
		p.l.deps.Log.Warn("the cloud refused a write for good", "key", e.Key.String(), "id", r.Id, "code", r.Code, "reason", r.Reason, "message", r.Message)
	}
	if err := p.l.deps.Store.Drop(ctx, r.Id); err != nil {
		return fmt.Errorf("%w: drop a delivered write: %w", errStore, err)
	}
	return nil
}
