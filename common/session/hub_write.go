package session

import (
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// write queues a write behind those of its key: an overlay must be in before the delete that follows it.
func (h *Hub) write(w *wire.Write) ([]Effect, error) {
	if h.count >= maxWrites {
		return nil, protocolError("%d writes without an answer, limit %d", h.count+1, maxWrites)
	}
	k := object.Key{Kind: object.ID(w.Kind), Namespace: w.Namespace, Name: w.Name}
	if err := k.Validate(); err != nil {
		// A bad write must not end the session: it would come again with the next one.
		return []Effect{Send{&wire.Frame{Body: &wire.Frame_Result{Result: &wire.Result{
			Id: w.Id, Code: 400, Final: true, Reason: "BadRequest", Message: err.Error()}}}}}, nil
	}
	h.count++
	h.writes[k] = append(h.writes[k], w)
	if len(h.writes[k]) > 1 {
		return nil, nil
	}
	return []Effect{DoWrite{w}}, nil
}

// Written takes the outcome of a DoWrite, and returns the Result to send and the next write of that key.
func (h *Hub) Written(w *wire.Write, r *wire.Result) []Effect {
	k := object.Key{Kind: object.ID(w.Kind), Namespace: w.Namespace, Name: w.Name}
	r.Id = w.Id
	effects := []Effect{Send{&wire.Frame{Body: &wire.Frame_Result{Result: r}}}}
	h.count--
	rest := h.writes[k][1:]
	if len(rest) == 0 {
		delete(h.writes, k)
		return effects
	}
	h.writes[k] = rest
	return append(effects, DoWrite{rest[0]})
}
