package store

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/tether-edge/tether/common/object"
)

// An Incoming is one change as it came down the link.
type Incoming struct {
	Key     object.Key
	Version object.Version
	// Body is the encoded object, or nil for a delete.
	Body []byte
	// Cause says why an object goes. A delete without one is treated as object.CauseNodeGone: it removes nothing.
	Cause object.Cause
	// Bad is why the body could not be had (it did not decompress, say); it is treated like one that does not decode.
	Bad error
}

// ApplyBatch does the changes in order, in one transaction, and returns after its commit.
//
// An upsert keeps what the edge wrote into the same incarnation (uid) of the object: the body served is the new base
// with the overlay merged in. A tombstoned object stays gone until the cloud confirms it or sends another incarnation.
// Where nothing that the local API shows has changed but the cloud's resourceVersion, the new version is recorded,
// the local one stays and no watcher is woken: the kubelet is spared the echo of its own writes.
//
// A delete removes the row, except what the site keeps, which becomes Held: anything gone for cause NODE_GONE, the
// node's own Node, what a held pod refers to, and, while a pod still refers to it, what is out of interest. Rows made
// on the edge are never touched, but for a CSINode: it is the cloud's as soon as the cloud has it, and what the edge
// wrote into it stays while that waits in the outbox.
//
// An object that does not decode, or is of an unknown kind, is skipped, counted and logged: it is not held, so digests
// differ and the next session sends it again. So is one that does not fit on the disk, and a pod that comes after it in
// the batch, for it may refer to it: the error is then object.ErrPartly. Any other error is the store's own: ErrFull,
// ErrClosed, or ctx's, and then the batch may or may not have been applied.
func (s *Store) ApplyBatch(ctx context.Context, batch []Incoming) error {
	items := make([]arrival, 0, len(batch))
	durable := false
	for i := range batch {
		a, err := prepare(&batch[i])
		if err != nil {
			s.metrics.bad.Inc()
			s.log.Warn("object from the cloud skipped", "key", batch[i].Key.String(), "version", batch[i].Version.RV, "error", err)
			continue
		}
		durable = durable || a.obj != nil && s.ownNode(a.Key)
		items = append(items, a)
	}
	if len(items) == 0 {
		return nil
	}
	err := s.applyArrivals(ctx, items, durable)
	if errors.Is(err, object.ErrFull) {
		return s.applySome(ctx, items, durable)
	}
	return err
}

// applySome applies what the disk has room for: first what gives room back, then one by one.
func (s *Store) applySome(ctx context.Context, items []arrival, durable bool) error {
	seen := map[object.Key]int{}
	for _, a := range items {
		seen[a.Key]++
	}
	var rest []arrival
	for _, a := range items {
		// A delete of what comes more than once must keep its place.
		if a.obj != nil || seen[a.Key] > 1 || s.applyArrivals(ctx, []arrival{a}, durable) != nil {
			rest = append(rest, a)
		}
	}
	left := 0
	for _, a := range rest {
		if left > 0 && a.obj != nil && a.Key.Kind == object.Pods {
			left++
			continue
		}
		err := s.applyArrivals(ctx, []arrival{a}, durable)
		if errors.Is(err, object.ErrFull) {
			left++
			s.metrics.unfit.Inc()
			s.log.Warn("no room on the disk for an object from the cloud", "key", a.Key.String(), "version", a.Version.RV, "bytes", len(a.Body))
			continue
		}
		if err != nil {
			return err
		}
	}
	if left == 0 {
		return nil
	}
	return fmt.Errorf("apply a batch: %w: %d of %d", object.ErrPartly, left, len(items))
}

func (s *Store) applyArrivals(ctx context.Context, items []arrival, durable bool) error {
	return s.write(ctx, &request{
		op: "apply a batch", durable: durable, rvs: 2 * len(items),
		do: func(t *tx) error {
			for i := range items {
				if err := t.incoming(&items[i]); err != nil {
					return fmt.Errorf("%s: %w", items[i].Key, err)
				}
			}
			return nil
		},
	})
}

// An arrival is an Incoming that was found sound. obj is nil for a delete.
type arrival struct {
	*Incoming
	kind object.Kind
	obj  object.Object
}

func prepare(in *Incoming) (arrival, error) {
	a := arrival{Incoming: in}
	if in.Bad != nil {
		return a, in.Bad
	}
	if err := in.Key.Validate(); err != nil {
		return a, err
	}
	var ok bool
	if a.kind, ok = object.Lookup(in.Key.Kind); !ok {
		return a, errors.New("this version does not know the kind")
	}
	if in.Body == nil {
		return a, nil
	}
	var err error
	if a.obj, err = object.Decode(a.kind, in.Body); err != nil {
		return a, err
	}
	if key := object.KeyOf(in.Key.Kind, a.obj); key != in.Key || string(a.obj.GetUID()) != in.Version.UID {
		return a, fmt.Errorf("the body is of %s with uid %q, expected uid %q", key, a.obj.GetUID(), in.Version.UID)
	}
	return a, nil
}

func (t *tx) incoming(a *arrival) error {
	old, err := t.c.record(a.Key)
	if err != nil {
		return err
	}
	if a.Key.Kind == object.CSINodes && old != nil {
		return t.csiNode(old, a)
	}
	if old != nil && old.Origin == object.FromEdge {
		return nil
	}
	if a.obj == nil {
		return t.depart(old, a.Cause)
	}
	return t.arrive(old, a)
}

// arrive stores what the cloud sent over old, which may be nil.
func (t *tx) arrive(old *object.Record, a *arrival) error {
	if old != nil && !old.Held && !old.Sealed && old.Version == a.Version {
		return nil
	}
	same := old != nil && old.Version.UID == a.Version.UID
	var overlay []byte
	var err error
	if same {
		if overlay, err = t.ownPart(a, old); err != nil {
			return err
		}
	}
	if old != nil && !same && t.s.ownNode(a.Key) && old.Overlay != nil {
		// The machine did not change because its Node was made anew. Without the status that the kubelet wrote it would
		// reject pods for want of capacity, and they would be Failed for good.
		if overlay, err = ownNodeOverlay(old); err != nil {
			t.s.log.Warn("the stored Node does not decode, what the kubelet wrote is lost", "error", err)
		} else if err := t.queueOverlay(a.Key, a.Version.UID, overlay); err != nil {
			return err
		}
	}
	r, served, err := merged(a, overlay)
	if err != nil {
		t.s.metrics.bad.Inc()
		t.s.log.Warn("object from the cloud skipped", "key", a.Key.String(), "version", a.Version.RV, "error", err)
		return nil
	}
	if same && overlay != nil && !old.Tombstone {
		if err := t.reassert(a, served, overlay); err != nil {
			return err
		}
	}
	if same {
		r.Withheld = old.Withheld
	} else if r.Withheld, err = t.withholds(served); err != nil {
		return err
	}
	if same && old.Tombstone {
		r.Tombstone = true
	} else if same && !old.Sealed && sameButVersion(a, old, r) {
		// The local version stays with the body that watchers saw; only what the cloud sent moves on.
		r.LocalRV = old.LocalRV
		t.changed = true
		return t.put(old, r)
	}
	_, err = t.store(old, r)
	return err
}

// ownPart returns the overlay that is to stay on a newer version of an object. The copy of a lost database may hold a status that
// the kubelet has replaced and the cloud has acknowledged since: asserted again, it would show a pod that has ended as running. So until
// the sync after such a loss is complete, what the cloud shows of a pod is the newer one, unless a write waits, or the pod has ended: after
// that nothing else is true of it, and the cloud may not have heard of it. The kubelet writes what it finds.
func (t *tx) ownPart(a *arrival, old *object.Record) ([]byte, error) {
	if old.Overlay == nil || a.Key.Kind != object.Pods || t.s.isWhole() {
		return old.Overlay, nil
	}
	if waits, err := t.waits(a); err != nil || waits {
		return old.Overlay, err
	}
	o, err := object.DecodeOverlay(old.Overlay)
	if err != nil {
		t.s.log.Warn("a stored status does not decode: what the cloud shows stays", "key", a.Key.String(), "error", err)
		return nil, nil
	}
	if o.Pod != nil && (o.Pod.Phase == corev1.PodSucceeded || o.Pod.Phase == corev1.PodFailed) {
		return old.Overlay, nil
	}
	return nil, nil
}

// waits reports whether a write of the object's state is in the outbox.
func (t *tx) waits(a *arrival) (found bool, err error) {
	err = t.c.query("SELECT 1 FROM outbox WHERE class = 0 AND kind = ? AND namespace = ? AND name = ? AND uid = ? LIMIT 1",
		[]any{string(a.Key.Kind), a.Key.Namespace, a.Key.Name, a.Version.UID}, func(func(...any) error) error { found = true; return nil })
	return found, wrap("look for a queued write of "+a.Key.String(), err)
}

// reassert queues the edge's overlay again where the cloud shows other values in fields that are the edge's: the node
// controller marked the node Unknown, or a frozen replica wrote an older status. A write that already waits will do.
func (t *tx) reassert(a *arrival, served object.Object, overlay []byte) error {
	if equality.Semantic.DeepEqual(a.obj, served) {
		return nil
	}
	if waits, err := t.waits(a); err != nil || waits {
		return err
	}
	return t.queueOverlay(a.Key, a.Version.UID, overlay)
}

func (t *tx) queueOverlay(k object.Key, uid string, overlay []byte) error {
	priority := object.PriorityPod
	if k.Kind == object.Nodes {
		priority = object.PriorityNode
	}
	return t.queue(object.Outgoing{Key: k, UID: uid, Op: object.OpOverlay, Body: overlay, Class: object.ClassState, Priority: priority})
}

// ownNodeOverlay is what the edge keeps of its own Node when the cloud makes it anew: what the kubelet wrote, and all
// resources, those included that came with the first registration.
func ownNodeOverlay(old *object.Record) ([]byte, error) {
	o, err := object.DecodeOverlay(old.Overlay)
	if err != nil {
		return nil, err
	}
	kind, _ := object.Lookup(object.Nodes)
	n, err := object.Decode(kind, old.Body)
	if err != nil {
		return nil, err
	}
	o.ClaimResources(n.(*corev1.Node))
	return object.EncodeOverlay(o)
}

// merged builds the record of what the cloud sent with the edge's overlay in it, and returns the object it serves too.
func merged(a *arrival, overlay []byte) (*object.Record, object.Object, error) {
	r := &object.Record{Key: a.Key, Version: a.Version, Origin: object.FromCloud, Body: a.Body, Overlay: overlay}
	var o *object.Overlay
	if overlay != nil {
		var err error
		if o, err = object.DecodeOverlay(overlay); err != nil {
			return nil, nil, err
		}
	}
	out := object.Merge(a.obj, o)
	if overlay == nil && !pretends(a.obj, out) {
		return r, out, nil
	}
	body, err := object.Encode(a.kind, out)
	if err != nil {
		return nil, nil, err
	}
	r.Base, r.Body = a.Body, body
	return r, out, nil
}

// pretends reports whether Merge without an overlay changed the pod: it hides an end that the cloud wrote (I8). Other
// objects are served as the bytes that came, with fields that this version does not know.
func pretends(base, out object.Object) bool {
	b, ok := base.(*corev1.Pod)
	return ok && b.Status.Phase != out.(*corev1.Pod).Status.Phase
}

// sameButVersion reports whether the served object differs from the stored one in the cloud's resourceVersion alone.
func sameButVersion(a *arrival, old, r *object.Record) bool {
	// Only the digits of the number may differ, so most changes are told from an echo without decoding.
	if d := len(old.Body) - len(r.Body); d < -20 || d > 20 {
		return false
	}
	before, err := object.Decode(a.kind, old.Body)
	if err != nil {
		return false
	}
	after, err := object.Decode(a.kind, r.Body)
	if err != nil {
		return false
	}
	before.SetResourceVersion(after.GetResourceVersion())
	x, errX := object.Encode(a.kind, before)
	y, errY := object.Encode(a.kind, after)
	return errX == nil && errY == nil && string(x) == string(y)
}

// depart does a delete from the cloud. old may be nil.
func (t *tx) depart(old *object.Record, cause object.Cause) error {
	if old == nil {
		return nil
	}
	keep := false
	switch {
	case old.Tombstone: // the cloud confirms what happened here
	case t.s.ownNode(old.Key), cause != object.CauseDeleted && cause != object.CauseOutOfInterest:
		keep = true
	default:
		refs, err := t.references()
		if err != nil {
			return err
		}
		keep = refs.held(old.Key) || cause == object.CauseOutOfInterest && refs.live(old.Key)
	}
	if !keep {
		_, err := t.drop(old)
		return err
	}
	if old.Held || old.Sealed {
		return nil
	}
	r := *old
	r.Held = true
	t.s.log.Info("object kept though the cloud lost it", "key", old.Key.String(), "cause", cause.String())
	_, err := t.store(old, &r)
	return err
}

// ownNode reports whether k is the Node that this edge is.
func (s *Store) ownNode(k object.Key) bool {
	return k.Kind == object.Nodes && k.Name == s.cfg.NodeName
}
