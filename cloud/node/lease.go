package node

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A leaseChange is what one write does to a Lease.
type leaseChange struct {
	claim, renew bool
	session      string
	address      string
	epoch        uint64
	renewTime    time.Time
	// copy is the Node's copy where it changed, hash its hash, and compared the change that it was made after.
	copy     []byte
	hash     string
	compared uint64
}

// syncLease writes a node's Lease if there is anything to write, in one request, and returns when to look again.
func (k *Keeper) syncLease(ctx context.Context, node string) (time.Duration, error) {
	if wait := k.beforeClaim(node); wait > 0 {
		return wait, nil
	}
	if err := k.knowLease(ctx, node); err != nil {
		return 0, err
	}
	change, rv, again := k.plan(node)
	if change == nil {
		return again, nil
	}
	start := time.Now()
	l, err := k.writeLease(ctx, node, rv, change)
	switch {
	case err == nil:
		k.m.leaseSeconds.Observe(time.Since(start).Seconds())
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		// Somebody else wrote or deleted it: another replica, or a person.
		k.m.leaseConflicts.Inc()
		k.mu.Lock()
		if r := k.records[node]; r != nil {
			r.known = false
		}
		k.mu.Unlock()
		return 0, errChanged
	default:
		return 0, fmt.Errorf("write lease %s/%s: %w", LeaseNamespace, node, err)
	}
	return k.written(node, l, change), nil
}

// beforeClaim says how long a session has yet to wait until it may claim the Lease.
func (k *Keeper) beforeClaim(node string) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.records[node]
	if r == nil || r.session == "" || r.claimed {
		return 0
	}
	return r.claimAt.Sub(k.deps.Clock.Now())
}

// knowLease reads the Lease where its state is not known, and reports a session that lost the node.
func (k *Keeper) knowLease(ctx context.Context, node string) error {
	k.mu.Lock()
	r := k.records[node]
	known := r == nil || r.known
	k.mu.Unlock()
	if known {
		return nil
	}
	l, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		l, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("read lease %s/%s: %w", LeaseNamespace, node, err)
	}
	k.mu.Lock()
	r = k.record(node)
	r.load(l)
	lost := ""
	if l != nil && r.claimed && l.Annotations[AnnotationSession] != r.session && r.leaseEpoch >= r.epoch {
		lost = r.session
		r.session, r.claimed = "", false
	}
	k.mu.Unlock()
	if lost != "" {
		k.m.lost.Inc()
		k.deps.Log.Info("another CloudCore holds this node now: its session here is closed", "node", node, "session", lost,
			"replica", l.Annotations[AnnotationReplica])
		if k.deps.Lost != nil {
			k.deps.Lost(node, lost)
		}
	}
	return nil
}

// load takes over the state of a Lease; nil is one that does not exist.
func (r *record) load(l *coordinationv1.Lease) {
	r.known = true
	r.rv, r.leaseEpoch, r.copied, r.removed = "", 0, "", false
	r.changes++
	if l == nil {
		r.claimed = false // it went with the claim
		return
	}
	r.rv = l.ResourceVersion
	if l.Spec.RenewTime != nil && l.Spec.RenewTime.After(r.renewed) {
		r.renewed = l.Spec.RenewTime.Time
	}
	// An annotation that cannot be read counts as the first epoch: the resourceVersion still orders the writers.
	r.leaseEpoch, _ = strconv.ParseUint(l.Annotations[AnnotationEpoch], 10, 64)
	if c := l.Annotations[AnnotationNode]; c != "" {
		r.copied = hashOf([]byte(c))
	}
	_, r.removed = l.Annotations[AnnotationRemoved]
}

// plan says what to write now. A nil change means nothing; again is then when to ask next, 0 for not before something
// happens.
func (k *Keeper) plan(node string) (change *leaseChange, rv string, again time.Duration) {
	k.mu.Lock()
	r := k.records[node]
	var changes uint64
	changed := r != nil && r.compared != r.changes && !r.removed
	if changed {
		changes = r.changes
	}
	k.mu.Unlock()
	var copied []byte
	if changed {
		copied = k.copyOf(node)
	}
	now := k.deps.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if r = k.records[node]; r == nil {
		return nil, "", 0
	}
	if r.removed {
		if r.session == "" {
			return nil, "", 0
		}
		if !r.stale {
			k.deps.Log.Warn("an edge is connected whose lease says that its node was removed: it is not renewed until the annotation is gone", "node", node, "annotation", AnnotationRemoved)
		}
		// The Lease is read again then.
		r.known, r.stale = false, true
		return nil, "", k.interval()
	}
	c := &leaseChange{session: r.session, address: r.address, epoch: r.epoch}
	if copied != nil {
		if h := hashOf(copied); h != r.copied {
			c.copy, c.hash, c.compared = copied, h, changes
		} else {
			r.compared = changes
		}
	}
	if r.session != "" {
		c.claim = !r.claimed
		if c.claim {
			c.epoch = r.leaseEpoch + 1
		}
		fresh := k.fresh(r, now)
		if !fresh && !r.stale {
			k.m.stale.Inc()
			k.deps.Log.Warn("the kubelet of a connected node no longer renews its lease: CloudCore stops too, and the node becomes NotReady",
				"node", node, "age", now.Sub(r.kubelet))
		}
		r.stale = !fresh
		c.renew = fresh && (c.claim || !now.Before(r.due))
	}
	if !c.claim && !c.renew && c.copy == nil {
		if r.session != "" && !r.stale {
			again = max(time.Millisecond, r.due.Sub(now))
		}
		return nil, "", again
	}
	if c.renew {
		c.renewTime = nextRenewal(now, r.renewed)
	}
	return c, r.rv, 0
}

// nextRenewal is now, or a moment after previous where the clock is behind: a renewal never goes backwards.
// Leases keep microseconds.
func nextRenewal(now, previous time.Time) time.Time {
	now = now.Truncate(time.Microsecond)
	if least := previous.Add(time.Microsecond); now.Before(least) {
		return least
	}
	return now
}

// writeLease makes the change in one request: a merge patch of the version rv, or a creation where rv is empty.
func (k *Keeper) writeLease(ctx context.Context, node, rv string, c *leaseChange) (*coordinationv1.Lease, error) {
	leases := k.deps.Client.CoordinationV1().Leases(LeaseNamespace)
	annotations := map[string]string{}
	if c.claim {
		annotations[AnnotationReplica], annotations[AnnotationSession] = c.address, c.session
		annotations[AnnotationEpoch] = strconv.FormatUint(c.epoch, 10)
	}
	if c.copy != nil {
		annotations[AnnotationNode] = string(c.copy)
	}
	spec := coordinationv1.LeaseSpec{}
	if c.claim || rv == "" {
		seconds := int32(k.cfg.Duration / time.Second)
		spec.HolderIdentity, spec.LeaseDurationSeconds = &node, &seconds
	}
	if c.renew {
		spec.RenewTime = &metav1.MicroTime{Time: c.renewTime}
	}
	if rv == "" {
		return leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: node, Namespace: LeaseNamespace, Labels: map[string]string{LabelEdge: ""}, Annotations: annotations},
			Spec:       spec,
		}, metav1.CreateOptions{FieldManager: fieldManager})
	}
	meta := map[string]any{"resourceVersion": rv}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
		// A Lease that a kubelet made before belongs to the Node and would go with it.
		meta["ownerReferences"] = nil
		meta["labels"] = map[string]string{LabelEdge: ""}
	}
	body, err := json.Marshal(map[string]any{"metadata": meta, "spec": spec})
	if err != nil {
		return nil, fmt.Errorf("encode lease patch: %w", err)
	}
	return leases.Patch(ctx, node, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
}

// written takes over what a write did and returns when to write next.
func (k *Keeper) written(node string, l *coordinationv1.Lease, c *leaseChange) time.Duration {
	now := k.deps.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.record(node)
	r.rv = l.ResourceVersion
	if c.copy != nil {
		r.copied, r.compared = c.hash, c.compared
		k.m.copies.Inc()
	}
	if c.claim {
		k.nodes.Add(node) // a removal that was taken back: the Node is still absent
		r.leaseEpoch = c.epoch
		if r.session == c.session {
			r.claimed, r.epoch = true, c.epoch
		}
	}
	if c.renew {
		r.renewed = c.renewTime
		r.due = now.Add(k.interval())
		k.m.renewals.Inc()
	}
	if r.session == "" {
		return 0
	}
	if r.stale {
		return 0 // Alive wakes it
	}
	return max(time.Millisecond, r.due.Sub(now))
}

// interval is the wait until the next renewal.
func (k *Keeper) interval() time.Duration {
	spread := min(k.cfg.RenewInterval/3, k.cfg.Duration/2-k.cfg.RenewInterval)
	return k.cfg.RenewInterval + rand.N(spread+1)
}

// readLeases learns of all edges that any CloudCore ever held, so that Nodes which vanished meanwhile are noticed. It
// returns only ctx's error.
func (k *Keeper) readLeases(ctx context.Context) error {
	for {
		err := k.listLeases(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		k.m.failures.WithLabelValues("lease list").Inc()
		k.deps.Log.Warn("cannot list the leases of edge nodes: trying again in a second", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (k *Keeper) listLeases(ctx context.Context) error {
	opts := metav1.ListOptions{LabelSelector: LabelEdge, Limit: 500}
	for {
		page, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("list leases in %s: %w", LeaseNamespace, err)
		}
		for i := range page.Items {
			l := &page.Items[i]
			k.mu.Lock()
			if r := k.record(l.Name); !r.known {
				r.load(l)
			}
			k.mu.Unlock()
			k.nodes.Add(l.Name)
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return nil
		}
	}
}
