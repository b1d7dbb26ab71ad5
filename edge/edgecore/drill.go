package edgecore

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	common "github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/drill"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/kubelet"
	"github.com/tether-edge/tether/edge/store"
)

// drillNotes is the bucket of notes that outlive the agent in a drill.
const drillNotes = "drill"

// buildDrill makes this node's part in drills. What it asks is made later; it asks nothing before it starts.
func (e *EdgeCore) buildDrill() error {
	now, err := drill.Clock(e.deps.Now)
	if err != nil {
		return err
	}
	site := drillSite{e}
	e.drill = drill.New(drill.Config{Enabled: e.cfg.Drills, Supervised: e.deps.Supervised},
		drill.Deps{Memory: drillMemory{e.store}, Cluster: site, Site: site, Now: now, PowerCut: powerCut, Log: e.part("drill"), Registry: e.reg})
	return nil
}

// powerCut ends this process without a word.
func powerCut() {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// drillSite shows this node to the drill.
type drillSite struct{ e *EdgeCore }

func (s drillSite) Node(ctx context.Context) (*drill.Node, error) {
	ours, theirs, err := s.e.own.Get(ctx)
	if errors.Is(err, ownnode.ErrGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &drill.Node{Order: theirs.Annotations[common.AnnotationOrder], Shown: theirs.Annotations[common.AnnotationState],
		State: ours.Annotations[common.AnnotationState], Stop: ours.Annotations[common.AnnotationStop]}
	if c := ownnode.Condition(ours, object.ConditionAutonomy); c.Status == corev1.ConditionFalse {
		n.Dependent = c.Reason + ": " + c.Message
	}
	return n, nil
}

// Changed follows the stored Node.
func (s drillSite) Changed(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		for ctx.Err() == nil {
			if err := s.follow(ctx, changed); err != nil {
				s.e.part("drill").Warn("the Node cannot be watched, it is looked at now and then", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
		}
	}()
	return changed
}

func (s drillSite) follow(ctx context.Context, changed chan<- struct{}) error {
	for ctx.Err() == nil {
		_, rv, err := s.e.store.List(ctx, object.Nodes, "")
		if err != nil {
			return err
		}
		events, err := s.e.store.Watch(ctx, object.Nodes, rv)
		if err != nil {
			return err
		}
		for range events {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

func (s drillSite) Say(ctx context.Context, state *string, over bool) error {
	annotations := map[string]*string{common.AnnotationState: state}
	if over {
		annotations[common.AnnotationStop] = nil
	}
	return s.e.own.Show(ctx, annotations)
}

func (s drillSite) Happened(ctx context.Context, warning bool, reason, message string) {
	if err := s.e.own.Event(ctx, warning, reason, message); err != nil {
		s.e.part("drill").Warn("no Event could be made", "reason", reason, "error", err)
	}
}

func (s drillSite) Pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := s.e.own.API.Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (s drillSite) Waiting(ctx context.Context) (drill.Waiting, error) {
	var w drill.Waiting
	err := s.e.store.Queue(ctx, func(h store.Head) error {
		if h.Remade() {
			return nil // numbered by themselves, and made again by whatever is reported next
		}
		if w.First == 0 || h.ID < w.First {
			w.First = h.ID
		}
		w.Last = max(w.Last, h.ID)
		return nil
	})
	if err != nil {
		return w, err
	}
	classes, err := s.e.store.Waiting(ctx)
	for _, c := range classes {
		w.Classes = append(w.Classes, common.Waiting{Class: c.Class, Count: c.Count, Bytes: c.Bytes})
	}
	return w, err
}

func (s drillSite) Lost() (n uint64) {
	for _, l := range s.e.store.Dropped() {
		n += l.Expired + l.Evicted + l.Refused
	}
	return n
}

// Updates reads what the devices count for people.
func (s drillSite) Updates() uint64 {
	families, _ := s.e.reg.Gather() // what one part cannot tell is no reason to tell nothing
	for _, f := range families {
		if f.GetName() == "tether_edge_device_updates_total" && len(f.Metric) == 1 {
			return uint64(f.Metric[0].GetCounter().GetValue())
		}
	}
	return 0
}

func (s drillSite) Kubelet() string {
	if st := s.e.kubelet.Status(); st.State != kubelet.StateRunning {
		return string(st.State)
	}
	return ""
}

func (s drillSite) Linked() bool {
	st := s.e.link.Status()
	return st.Connected && st.Synced
}

// drillMemory keeps notes.
type drillMemory struct{ *store.Store }

func (m drillMemory) Load(ctx context.Context) (map[string][]byte, error) {
	values := map[string][]byte{}
	err := m.Notes(ctx, drillNotes, func(key string, value []byte) error {
		values[key] = slices.Clone(value)
		return nil
	})
	return values, err
}

func (m drillMemory) Keep(ctx context.Context, values map[string][]byte) error {
	var notes []store.Note
	for k, v := range values {
		notes = append(notes, store.Note{Bucket: drillNotes, Key: k, Value: v})
	}
	return m.Store.Keep(ctx, notes)
}
