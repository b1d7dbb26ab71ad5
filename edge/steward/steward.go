package steward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/tether-edge/tether/common/object"
)

// Store is the edge's store as the steward needs it; its errors are those of the store.
type Store interface {
	Get(ctx context.Context, key object.Key) (rec *object.Record, ok bool, err error)
	List(ctx context.Context, kind object.ID, namespace string) ([]*object.Record, uint64, error)
	Watch(ctx context.Context, kind object.ID, since uint64) (<-chan object.Event, error)
	Apply(ctx context.Context, c object.Change) (*object.Record, error)
	// Undelivered returns the uids of the pods of which something waits for the cloud.
	Undelivered(ctx context.Context) (map[string]bool, error)
	// Keep writes a note durably, or removes it if value is nil; Notes visits all.
	Keep(ctx context.Context, key string, value []byte) error
	Notes(ctx context.Context, visit func(key string, value []byte) error) error
}

// Link says how the link is.
type Link interface {
	// State reports whether there is a session, and whether all that the cloud has is in the store.
	State() (connected, synced bool)
}

// Events tells people, at a pod.
type Events interface {
	Event(pod *corev1.Pod, eventType, reason, message string)
}

// Reasons of Events.
const (
	ReasonStandIn = "StandIn"
	ReasonRetired = "KeptPodRetired"
	ReasonFenced  = "Fenced"
)

// Config says how a Steward judges.
type Config struct {
	NodeName string
	// StandIns says whether they are made.
	StandIns bool
	// FenceAfter is for how long the cloud may not be heard before pods that are to be fenced end; 0 is for ever.
	FenceAfter time.Duration
}

// Deps are what a Steward works with. Registerer may be nil.
type Deps struct {
	Store  Store
	Link   Link
	Events Events
	// Sandboxes returns the pods that the runtime runs, as namespace/name and their uids.
	Sandboxes func(ctx context.Context) (map[string][]types.UID, error)
	// Show shows the summary where the cluster sees it. It is called with each new one, and again after an error.
	Show func(ctx context.Context, s Summary) error
	Log  *slog.Logger
	// Now is the machine's clock, for the times that pods show.
	Now        func() time.Time
	Boot       Boot
	Registerer prometheus.Registerer
}

// A Steward is the one owner of what the site keeps. Other methods than Start are safe for concurrent use.
type Steward struct {
	cfg     Config
	deps    Deps
	judge   *judge
	fence   *fence
	metrics *metrics

	mu      sync.Mutex
	summary Summary
	shown   *Summary      // what the cluster is shown
	settled chan struct{} // closed after the first pass
	// discarded are stand-ins that the steward removed itself: no wish of anybody.
	discarded map[types.UID]bool
}

// A Summary is what the site keeps.
type Summary struct {
	// Held and StandIns are pods, as namespace/name; Fenced those that were ended because the node is cut off.
	Held     []string `json:"held,omitempty"`
	StandIns []string `json:"standIns,omitempty"`
	Fenced   []string `json:"fenced,omitempty"`
}

// New returns a Steward that does nothing before Start.
func New(cfg Config, deps Deps) (*Steward, error) {
	m, err := newMetrics(deps.Registerer)
	if err != nil {
		return nil, fmt.Errorf("steward: %w", err)
	}
	return &Steward{cfg: cfg, deps: deps, judge: newJudge(), fence: newFence(cfg.FenceAfter, deps.Boot), metrics: m,
		settled: make(chan struct{}), discarded: map[types.UID]bool{}}, nil
}

// Settled is closed once what a restart found has been judged: the kubelet is not to start before, or it would start what is fenced.
func (s *Steward) Settled() <-chan struct{} { return s.settled }

// Summary returns what the site keeps now.
func (s *Steward) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.summary
}

const (
	// lookEvery is how often the state of the link is looked at.
	lookEvery = 2 * time.Second
	// gather is how long to wait for more changes after one.
	gather = 50 * time.Millisecond
	// retry is the pause after a store that failed.
	retry = 5 * time.Second
)

// Start judges at each change of a pod, of the link, and when something has lasted, until ctx ends.
func (s *Steward) Start(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := s.follow(ctx); err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("cannot look after the site's pods, trying again", "error", err)
			wait(ctx, retry)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// follow judges until the store's watch ends.
func (s *Steward) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, rv, err := s.deps.Store.List(ctx, object.Pods, "")
	if err != nil {
		return err
	}
	events, err := s.deps.Store.Watch(ctx, object.Pods, rv)
	if err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	changed, wake := time.After(0), time.Time{}
	_, synced := s.deps.Link.State()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return errors.New("the watch of pods ended")
			}
			if err := s.noted(ctx, e); err != nil {
				return err
			}
			if changed == nil {
				changed = time.After(gather)
			}
		case <-tick.C:
			now := time.Now()
			connected, is := s.deps.Link.State()
			if s.fence.beat(connected, is) || is != synced || !wake.IsZero() && !now.Before(wake) {
				synced, changed = is, time.After(0)
			}
		case <-changed:
			changed = nil
			if wake, err = s.pass(ctx); err != nil {
				return err
			}
		}
	}
}

// noted remembers that somebody ended a stand-in: there will be no other.
func (s *Steward) noted(ctx context.Context, e object.Event) error {
	if e.Type != object.Deleted || e.Record.Origin != object.FromEdge {
		return nil
	}
	pod, err := podOf(e.Record)
	if err != nil || !isStandIn(pod) || pod.Annotations[Retired] != "" {
		return err
	}
	if s.discarded[pod.UID] {
		delete(s.discarded, pod.UID)
		return nil
	}
	return s.dismiss(ctx, types.UID(pod.Annotations[StandInForUID]))
}

const dismissedPrefix = "dismissed/"

func (s *Steward) dismiss(ctx context.Context, original types.UID) error {
	if s.judge.dismissed[original] {
		return nil
	}
	s.judge.dismissed[original] = true
	return s.deps.Store.Keep(ctx, dismissedPrefix+string(original), []byte("1"))
}

// pass takes one picture and does what follows from it. What a fence asks for comes first, and nothing that fails holds it up; nor does the
// kubelet's start wait for the rest.
func (s *Steward) pass(ctx context.Context) (time.Time, error) {
	p, err := s.picture(ctx)
	if err != nil {
		return time.Time{}, err
	}
	steps, wake := s.judge.judge(p)
	var faults []error
	for _, st := range steps {
		if st.verb == withhold {
			if err := s.take(ctx, st); err != nil {
				faults = append(faults, fmt.Errorf("%s pod %s/%s: %w", st.verb, st.pod.Namespace, st.pod.Name, err))
			}
		}
	}
	if err := errors.Join(faults...); err != nil {
		return time.Time{}, err
	}
	select {
	case <-s.settled:
	default:
		close(s.settled)
	}
	for _, k := range p.pods {
		if isStandIn(k.Pod) && k.DeletionTimestamp != nil && k.Annotations[Retired] == "" {
			if err := s.dismiss(ctx, types.UID(k.Annotations[StandInForUID])); err != nil {
				return time.Time{}, err
			}
		}
	}
	if err := s.forget(ctx, p); err != nil {
		return time.Time{}, err
	}
	for _, st := range steps {
		if st.verb == withhold || st.verb == create && (!s.cfg.StandIns || s.judge.dismissed[st.pod.UID]) {
			continue
		}
		if err := s.take(ctx, st); errors.Is(err, object.ErrConflict) {
			return time.Now(), nil // something changed: its event is on its way, and the picture is old
		} else if err != nil {
			return time.Time{}, fmt.Errorf("%s pod %s/%s: %w", st.verb, st.pod.Namespace, st.pod.Name, err)
		}
	}
	if err := s.heard(ctx, p); err != nil {
		return time.Time{}, err
	}
	if err := s.show(ctx, p); err != nil {
		s.deps.Log.Warn("the cluster is not shown what the site keeps, trying again", "error", err)
		wake = earlier(wake, time.Now().Add(retry))
	}
	return wake, nil
}

// forget drops what was remembered of pods that are gone.
func (s *Steward) forget(ctx context.Context, p picture) error {
	for uid := range s.judge.dismissed {
		there := false
		for _, pod := range p.pods {
			there = there || pod.UID == uid
		}
		if there {
			continue
		}
		if err := s.deps.Store.Keep(ctx, dismissedPrefix+string(uid), nil); err != nil {
			return err
		}
		delete(s.judge.dismissed, uid)
	}
	return nil
}

func podOf(rec *object.Record) (*corev1.Pod, error) {
	kind, _ := object.Lookup(object.Pods)
	o, err := object.Decode(kind, rec.Body)
	if err != nil {
		return nil, fmt.Errorf("stored %s: %w", rec.Key, err)
	}
	return o.(*corev1.Pod), nil
}

func (s *Steward) picture(ctx context.Context) (picture, error) {
	connected, synced := s.deps.Link.State()
	p := picture{synced: synced, now: time.Now(), fencing: s.fence.on(connected, synced)}
	recs, _, err := s.deps.Store.List(ctx, object.Pods, "")
	if err != nil {
		return p, err
	}
	undelivered, err := s.deps.Store.Undelivered(ctx)
	if err != nil {
		return p, err
	}
	for _, rec := range recs {
		pod, err := podOf(rec)
		if err != nil {
			s.deps.Log.Error("a stored pod cannot be read: it is not looked after", "error", err)
			continue
		}
		p.pods = append(p.pods, seen{Pod: pod, Held: rec.Held, Local: rec.Origin == object.FromEdge, Withheld: rec.Withheld,
			Undelivered: undelivered[rec.Version.UID]})
	}
	if err := s.occupied(ctx, p.pods); err != nil {
		return p, err
	}
	node, ok, err := s.deps.Store.Get(ctx, object.Key{Kind: object.Nodes, Name: s.cfg.NodeName})
	if err != nil {
		return p, err
	}
	if ok && !node.Sealed {
		kind, _ := object.Lookup(object.Nodes)
		o, err := object.Decode(kind, node.Body)
		if err != nil {
			return p, fmt.Errorf("stored %s: %w", node.Key, err)
		}
		p.node = o.(*corev1.Node)
	}
	return p, nil
}

// occupied asks the runtime whether it still has the former pod of a name, for those that wait for it.
func (s *Steward) occupied(ctx context.Context, pods []seen) error {
	waits := func(p seen) bool {
		o, _ := ownerOf(p.Pod)
		return p.Withheld && !p.kept() && o.kind == statefulSet
	}
	if !slices.ContainsFunc(pods, waits) {
		return nil
	}
	running, err := s.deps.Sandboxes(ctx)
	if err != nil {
		s.deps.Log.Warn("the runtime does not say which pods it runs: those of StatefulSets wait", "error", err)
	}
	for i := range pods {
		if p := &pods[i]; waits(*p) {
			p.Occupied = err != nil || slices.ContainsFunc(running[p.Namespace+"/"+p.Name], func(uid types.UID) bool { return uid != p.UID })
		}
	}
	return ctx.Err()
}

// take does one step. Its error is object.ErrConflict if the pod is no longer what was judged.
func (s *Steward) take(ctx context.Context, st step) error {
	if st.verb == create {
		return s.create(ctx, st)
	}
	key := object.Key{Kind: object.Pods, Namespace: st.pod.Namespace, Name: st.pod.Name}
	rec, ok, err := s.deps.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	if !ok || rec.Version.UID != string(st.pod.UID) {
		return object.ErrConflict
	}
	next := *rec
	switch st.verb {
	case discard:
		s.discarded[st.pod.UID] = true
		_, err = s.deps.Store.Apply(ctx, object.Change{Expect: rec.LocalRV, Record: rec, Remove: true})
		return err
	case withhold, release:
		next.Withheld = st.verb == withhold
	case adopt:
		err = s.edit(&next, func(pod *corev1.Pod) { setPeers(pod, append(peersOf(pod), st.peers...)) })
	case retire:
		err = s.edit(&next, func(pod *corev1.Pod) { s.mark(pod, st.because) })
	}
	if err != nil {
		return err
	}
	if _, err := s.deps.Store.Apply(ctx, object.Change{Expect: rec.LocalRV, Record: &next}); err != nil {
		return err
	}
	s.tell(st)
	return nil
}

// edit changes a kept pod. What the cloud last said of a held one is changed along: nobody compares it any more.
func (s *Steward) edit(rec *object.Record, change func(*corev1.Pod)) error {
	if !rec.Held && rec.Origin != object.FromEdge {
		return fmt.Errorf("%w: the cluster has the pod again", object.ErrConflict)
	}
	kind, _ := object.Lookup(object.Pods)
	edit := func(body []byte) ([]byte, error) {
		o, err := object.Decode(kind, body)
		if err != nil {
			return nil, err
		}
		change(o.(*corev1.Pod))
		return object.Encode(kind, o)
	}
	body, err := edit(rec.Body)
	if err != nil {
		return err
	}
	if rec.Base != nil {
		if rec.Base, err = edit(rec.Base); err != nil {
			return err
		}
	}
	rec.Body = body
	return nil
}

// mark marks a pod as the cluster does that is deleted: the kubelet ends it in its own time, and then takes it away.
func (s *Steward) mark(pod *corev1.Pod, because string) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[Retired] = because
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	end := metav1.NewTime(s.deps.Now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &end, &grace
}

func (s *Steward) create(ctx context.Context, st step) error {
	pod := standIn(st.pod.Pod, uuid.NewUUID(), st.attempt, st.peers, s.deps.Now())
	kind, _ := object.Lookup(object.Pods)
	body, err := object.Encode(kind, pod)
	if err != nil {
		return err
	}
	rec := &object.Record{Key: object.KeyOf(object.Pods, pod), Version: object.Version{UID: string(pod.UID)}, Origin: object.FromEdge, Body: body}
	if _, err := s.deps.Store.Apply(ctx, object.Change{Record: rec}); err != nil {
		return err
	}
	s.metrics.made.Inc()
	s.deps.Log.Info("stand-in made", "pod", rec.Key.String(), "for", st.pod.Name, "reason", st.pod.Status.Reason, "attempt", st.attempt)
	s.deps.Events.Event(st.pod.Pod, corev1.EventTypeWarning, ReasonStandIn, fmt.Sprintf(
		"The pod ended for good (%s) while its controller cannot be heard: %s stands in for it on node %s.", reasonOf(st.pod.Pod), pod.Name, s.cfg.NodeName))
	return nil
}

func reasonOf(pod *corev1.Pod) string {
	if pod.Status.Reason != "" {
		return pod.Status.Reason
	}
	return string(pod.Status.Phase)
}

// tell says what was done.
func (s *Steward) tell(st step) {
	log := s.deps.Log.With("pod", st.pod.Namespace+"/"+st.pod.Name)
	switch st.verb {
	case retire:
		s.metrics.retired.Inc()
		log.Info("kept pod retires", "because", st.because)
		s.deps.Events.Event(st.pod.Pod, corev1.EventTypeNormal, ReasonRetired, "The pod was kept without the cluster and ends: "+st.because+".")
	case withhold:
		s.metrics.fenced.Inc()
		log.Warn("pod ends until the cloud is heard again", "because", st.because)
		s.deps.Events.Event(st.pod.Pod, corev1.EventTypeWarning, ReasonFenced, "The pod ends until the cloud is heard again: "+st.because+", and it is annotated "+Fence+".")
	case release:
		log.Info("pod is shown to the kubelet")
	}
}

// show publishes what is kept.
func (s *Steward) show(ctx context.Context, p picture) error {
	var sum Summary
	for _, k := range p.pods {
		name := k.Namespace + "/" + k.Name
		switch {
		case ended(k.Pod):
		case k.Withheld && p.fencing && k.Annotations[Fence] == "true":
			sum.Fenced = append(sum.Fenced, name)
		case k.Held:
			sum.Held = append(sum.Held, name)
		case isStandIn(k.Pod):
			sum.StandIns = append(sum.StandIns, name)
		}
	}
	s.metrics.show(sum)
	s.mu.Lock()
	s.summary = sum
	s.mu.Unlock()
	if s.shown != nil && s.shown.equal(sum) {
		return nil
	}
	if err := s.deps.Show(ctx, sum); err != nil {
		return err
	}
	s.shown = &sum
	return nil
}

func (s Summary) equal(o Summary) bool {
	return slices.Equal(s.Held, o.Held) && slices.Equal(s.StandIns, o.StandIns) && slices.Equal(s.Fenced, o.Fenced)
}

// earlier is the earlier of two times; the first may be zero, which is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
