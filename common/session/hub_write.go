package session

import (
	"fmt"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// write queues a write behind those of its key: an overlay must be in before the delete that follows it.
func (h *Hub) write(w *wire.Write) ([]Effect, error) {
	k := object.Key{Kind: object.ID(w.Kind), Namespace: w.Namespace, Name: w.Name}
	err := k.Validate()
	if err == nil && len(w.Uid) > object.MaxUID {
		err = fmt.Errorf("%s: uid of %d bytes, expected at most %d", k, len(w.Uid), object.MaxUID)
	}
	if err != nil {
		// A bad write must not end the session: it would come again with the next one.
		return []Effect{Send{&wire.Frame{Body: &wire.Frame_Result{Result: &wire.Result{
			Id: w.Id, Code: 400, Final: true, Reason: "BadRequest", Message: err.Error()}}}}}, nil
	}
	q := h.writes[k]
	if last := len(q) - 1; last > 0 && supersedes(w, q[last]) {
		// With a slow API server a kubelet or a device that writes often must not fill the hub with what nobody wants any more.
		old := q[last]
		q[last] = w
		h.held += heldBytes(w) - heldBytes(old)
		return []Effect{Send{&wire.Frame{Body: &wire.Frame_Result{Result: &wire.Result{
			Id: old.Id, Code: 503, Reason: "Superseded", Message: "a later write of this object took its place"}}}}}, nil
	}
	if h.count >= maxWrites {
		return nil, protocolError("%d writes without an answer, limit %d", h.count+1, maxWrites)
	}
	h.count++
	h.held += heldBytes(w)
	h.writes[k] = append(q, w)
	if len(q) > 0 {
		return nil, nil
	}
	return []Effect{DoWrite{w}}, nil
}

// supersedes reports that a write makes an earlier one of the same key worthless: an overlay, and what is put, is all that
// the edge says of the object, not a difference.
func supersedes(w, earlier *wire.Write) bool {
	return (w.Op == wire.Op_OP_OVERLAY || w.Op == wire.Op_OP_PUT) && w.Op == earlier.Op && w.Uid == earlier.Uid
}

// heldBytes is what a write may cost the hub until it is answered.
func heldBytes(w *wire.Write) int { return wire.OpenSize(w.Body, w.Compression) }

// Held is how many bytes the writes take that were received and not answered, decompressed bodies included. The caller
// reads no more from an edge that is owed too much.
func (h *Hub) Held() int { return h.held }

// Written takes the outcome of a DoWrite, and returns the Result to send and the next write of that key.
func (h *Hub) Written(w *wire.Write, r *wire.Result) []Effect {
	k := object.Key{Kind: object.ID(w.Kind), Namespace: w.Namespace, Name: w.Name}
	r.Id = w.Id
	effects := []Effect{Send{&wire.Frame{Body: &wire.Frame_Result{Result: r}}}}
	h.count--
	h.held -= heldBytes(w)
	rest := h.writes[k][1:]
	if len(rest) == 0 {
		delete(h.writes, k)
		return effects
	}
	h.writes[k] = rest
	return append(effects, DoWrite{rest[0]})
}
