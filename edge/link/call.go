package link

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// pendingCall waits for its Reply.
type pendingCall struct {
	call   object.Call
	answer chan object.Reply // buffered: the waiter may be gone
}

// Call asks the API server through the link. It returns object.ErrOffline where there is no link, or none that answers
// before ctx ends.
func (l *Link) Call(ctx context.Context, c object.Call) (object.Reply, error) {
	l.mu.Lock()
	p := l.current
	problem := l.status.Problem
	l.mu.Unlock()
	if p == nil {
		return object.Reply{}, fmt.Errorf("%s %s: %w (%s)", c.Verb, c.Key, object.ErrOffline, problem)
	}
	pc := &pendingCall{call: c, answer: make(chan object.Reply, 1)}
	select {
	case p.calls <- pc:
	case <-p.done:
		return object.Reply{}, fmt.Errorf("%s %s: %w (it broke off)", c.Verb, c.Key, object.ErrOffline)
	case <-ctx.Done():
		return object.Reply{}, fmt.Errorf("%s %s: %w: %w", c.Verb, c.Key, object.ErrOffline, ctx.Err())
	}
	select {
	case r := <-pc.answer:
		return r, nil
	case <-p.done:
		return object.Reply{}, fmt.Errorf("%s %s: %w (it broke off)", c.Verb, c.Key, object.ErrOffline)
	case <-ctx.Done():
		return object.Reply{}, fmt.Errorf("%s %s: %w: %w", c.Verb, c.Key, object.ErrOffline, ctx.Err())
	}
}

// maxCalls bounds the calls without an answer: those beyond it replace the oldest, whose callers have long given up.
const maxCalls = 1024

func (p *peer) call(c *pendingCall) {
	p.nextCall++
	if old := p.nextCall - maxCalls; p.nextCall > maxCalls {
		delete(p.waiting, old)
	}
	p.waiting[p.nextCall] = c
	k := c.call.Key
	p.out.send(&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: p.nextCall, Verb: c.call.Verb, Kind: string(k.Kind),
		Namespace: k.Namespace, Name: k.Name, Subresource: c.call.Subresource, ContentType: c.call.ContentType,
		Body: c.call.Body, Query: c.call.Query}}})
}

func (p *peer) answer(r *wire.Reply) {
	c := p.waiting[r.Id]
	if c == nil {
		return
	}
	delete(p.waiting, r.Id)
	c.answer <- object.Reply{Code: int(r.Code), ContentType: r.ContentType, Body: r.Body}
}

func (l *Link) random() float64 { return rand.Float64() }
