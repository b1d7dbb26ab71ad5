package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// What Devices answers; an error that wraps one of them reaches the client with its text.
var (
	// ErrNotFound: this node has no such device. Code 404.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request can never be granted as it is. Code 400.
	ErrInvalid = errors.New("invalid")
)

// Devices owns the twins of this node's devices. Its methods may be called at once from many goroutines. An error other
// than ErrNotFound and ErrInvalid becomes code 500; its text goes to the log and not to the client.
type Devices interface {
	// Update changes a twin, and returns once what it changed is stored. It may block until ctx is done.
	Update(ctx context.Context, namespace, name string, u Update) error
	// Twin returns a copy of all properties, from memory.
	Twin(namespace, name string) (map[string]Property, error)
	// SetState notes what a client says of a device, as Update does.
	SetState(ctx context.Context, namespace, name, state string) (Info, error)
	// List returns this node's devices with their twins, from memory.
	List() []Info
}

// message is what the edge publishes.
type message struct {
	topic   string
	payload []byte
}

// An answerer turns requests into results.
type answerer struct {
	node       string
	devices    Devices
	upload     func(ctx context.Context, topic string, payload []byte) error
	maxPayload int
	timeout    time.Duration
	log        *slog.Logger
	now        func() time.Time
	metrics    *metrics
}

// answer does what a client asked for and returns what to publish. Nil if topic is no request, or one that has no result.
func (a *answerer) answer(ctx context.Context, topic string, payload []byte) *message {
	r, ok := parseTopic(topic)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if r.kind == upload {
		a.forward(ctx, topic, payload)
		return nil
	}
	// The engine is ours, and still no client may end the process through it.
	h, body, err := a.safely(ctx, r, payload)
	h.Timestamp = a.now().UnixMilli()
	code := 200
	if err != nil {
		var reason string
		code, reason = a.judge(topic, err)
		body = errorPayload{h, code, reason}
	}
	a.metrics.requests.WithLabelValues(r.kind.String(), strconv.Itoa(code)).Inc()
	return &message{topic + result, a.encode(h, body)}
}

// safely is try, with a panic as an error.
func (a *answerer) safely(ctx context.Context, r request, payload []byte) (h header, body any, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.metrics.panics.Inc()
			body, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	return a.try(ctx, r, payload)
}

func (a *answerer) try(ctx context.Context, r request, payload []byte) (header, any, error) {
	invalid := func(err error) error { return fmt.Errorf("%w: %w", ErrInvalid, err) }
	if len(payload) > a.maxPayload {
		return header{}, nil, invalid(fmt.Errorf("the payload has %d bytes, expected at most %d", len(payload), a.maxPayload))
	}
	if len(r.namespace) > maxName || len(r.name) > maxName {
		return header{}, nil, invalid(fmt.Errorf("expected names of at most %d bytes", maxName))
	}
	switch r.kind {
	case twinUpdate:
		h, u, err := parseUpdate(payload)
		if err != nil {
			return h, nil, invalid(err)
		}
		if err := a.devices.Update(ctx, r.namespace, r.name, u); err != nil {
			return h, nil, err
		}
		all, err := a.devices.Twin(r.namespace, r.name)
		if err != nil {
			return h, nil, err
		}
		asked := make(map[string]Property, len(u.Twin))
		for name := range u.Twin {
			if p, ok := all[name]; ok {
				asked[name] = p
			}
		}
		return h, twinPayload{a.stamp(h), asked}, nil
	case twinGet:
		h, err := parseGet(payload)
		if err != nil {
			return h, nil, invalid(err)
		}
		all, err := a.devices.Twin(r.namespace, r.name)
		if all == nil {
			all = map[string]Property{}
		}
		return h, twinPayload{a.stamp(h), all}, err
	case stateUpdate:
		h, state, err := parseState(payload)
		if err != nil {
			return h, nil, invalid(err)
		}
		i, err := a.devices.SetState(ctx, r.namespace, r.name, state)
		return h, stateResult{a.stamp(h), stateDevice{r.name, i.State, i.LastOnline}}, err
	default:
		h, err := parseGet(payload)
		if err != nil {
			return h, nil, invalid(err)
		}
		if r.name != a.node {
			return h, nil, fmt.Errorf("%w: expected node %s, found %s", ErrNotFound, a.node, clip(r.name, 253))
		}
		return h, membersPayload{a.stamp(h), devices(a.devices.List())}, nil
	}
}

// stamp is h with the time of the answer.
func (a *answerer) stamp(h header) header { return header{h.EventID, a.now().UnixMilli()} }

// judge returns the code of err and what the client is told.
func (a *answerer) judge(topic string, err error) (code int, reason string) {
	switch {
	case errors.Is(err, ErrNotFound):
		code = 404
	case errors.Is(err, ErrInvalid):
		code = 400
	default:
		a.log.Error("a device's request failed", "topic", clip(topic, 256), "error", err)
		return 500, "the edge failed; its log says why"
	}
	return code, clip(err.Error(), 1024)
}

func (a *answerer) encode(h header, body any) []byte {
	b, err := json.Marshal(body)
	if err != nil { // no type above can; a value of the engine's could in time
		a.log.Error("cannot encode a payload", "error", err)
		b, _ = json.Marshal(errorPayload{h, 500, "the edge failed; its log says why"})
	}
	return b
}

// forward hands an upload on. Nothing is answered, as there is no topic for it.
func (a *answerer) forward(ctx context.Context, topic string, payload []byte) {
	result := "unsupported"
	if a.upload != nil {
		result = "ok"
		if err := a.uploaded(ctx, topic, payload); err != nil {
			result = "failed"
			a.log.Warn("an upload is lost", "topic", clip(topic, 256), "bytes", len(payload), "error", err)
		}
	}
	a.metrics.uploads.WithLabelValues(result).Inc()
}

// uploaded is upload, with a panic as an error.
func (a *answerer) uploaded(ctx context.Context, topic string, payload []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a.metrics.panics.Inc()
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return a.upload(ctx, topic, payload)
}
