package keadm

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/drill"
)

// A clusterView is what the cluster shows of a node during a drill, as it is seen from beside it.
type clusterView struct {
	// Changes are what was seen, in order.
	Changes []drill.Change `json:"changes"`
	// Silent is the longest time for which the node's Lease was not renewed.
	Silent metav1.Duration `json:"silent"`
	// Unready is how long after the cut the node was not Ready any more; absent if it was all the time.
	Unready *metav1.Duration `json:"unready,omitempty"`
	// Ready is how long after the end of the cut it was again.
	Ready *metav1.Duration `json:"ready,omitempty"`
	// Broke are the things that a cut is not to do and did.
	Broke []string `json:"broke"`

	ready corev1.ConditionStatus
	// cut and back are when the node agreed, and when it was Ready again; zero for not.
	cut, back time.Time
	pods      map[types.UID]*seenPod
	sets      map[types.UID]*podSet
}

type seenPod struct {
	name         string
	marked, gone bool
	ended        bool
}

// A podSet is a controller with pods on the node.
type podSet struct {
	namespace, kind, name string
	// active is how many pods it had at first, on all nodes.
	active int
	twins  map[types.UID]bool
}

func active(p *corev1.Pod) bool {
	return p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func podsOf(ctx context.Context, api kubernetes.Interface, node string) ([]corev1.Pod, error) {
	l, err := api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()})
	if err != nil {
		return nil, fmt.Errorf("list the pods of node %s: %w", node, err)
	}
	return l.Items, nil
}

// begin takes note of how all is before the cut.
func (v *clusterView) begin(ctx context.Context, api kubernetes.Interface, n *corev1.Node) error {
	*v = clusterView{Changes: []drill.Change{}, Broke: []string{}, pods: map[types.UID]*seenPod{}, sets: map[types.UID]*podSet{}}
	v.ready, _ = readiness(n)
	pods, err := podsOf(ctx, api, n.Name)
	if err != nil {
		return err
	}
	for i := range pods {
		p := &pods[i]
		v.pods[p.UID] = &seenPod{name: p.Namespace + "/" + p.Name, marked: p.DeletionTimestamp != nil, ended: !active(p)}
		c := metav1.GetControllerOf(p)
		// A Job makes others as its pods end, a DaemonSet one for each node.
		if c == nil || !slices.Contains([]string{"ReplicaSet", "StatefulSet", "ReplicationController"}, c.Kind) || v.sets[c.UID] != nil {
			continue
		}
		v.sets[c.UID] = &podSet{namespace: p.Namespace, kind: c.Kind, name: c.Name, twins: map[types.UID]bool{}}
	}
	return v.count(ctx, api, func(set *podSet, pods []*corev1.Pod) { set.active = len(pods) })
}

// count calls each with every set and the active pods that it has on all nodes.
func (v *clusterView) count(ctx context.Context, api kubernetes.Interface, each func(*podSet, []*corev1.Pod)) error {
	spaces := map[string]bool{}
	for _, s := range v.sets {
		spaces[s.namespace] = true
	}
	owned := map[types.UID][]*corev1.Pod{}
	for space := range spaces {
		l, err := api.CoreV1().Pods(space).List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("list the pods of namespace %s: %w", space, err)
		}
		for i := range l.Items {
			if c := metav1.GetControllerOf(&l.Items[i]); c != nil && active(&l.Items[i]) {
				owned[c.UID] = append(owned[c.UID], &l.Items[i])
			}
		}
	}
	for uid, s := range v.sets {
		each(s, owned[uid])
	}
	return nil
}

func (v *clusterView) saw(now time.Time, what string) string {
	v.Changes = append(v.Changes, drill.Change{At: now.UTC().Truncate(time.Second), What: what})
	return what
}

// look takes note of what the cluster shows now, and returns what is new.
func (v *clusterView) look(ctx context.Context, api kubernetes.Interface, n *corev1.Node, now time.Time) (news []string, err error) {
	status, why := readiness(n)
	if status != v.ready {
		news = append(news, v.saw(now, fmt.Sprintf("Ready is %s: %s", status, why)))
		if v.ready = status; status == corev1.ConditionTrue {
			v.back = now
		} else if v.Unready == nil {
			v.Unready = &metav1.Duration{Duration: now.Sub(v.cut).Round(time.Second)}
		}
	}
	l, err := api.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return news, fmt.Errorf("read the lease of node %s: %w", n.Name, err)
	}
	if at := l.Spec.RenewTime; at != nil {
		v.Silent.Duration = max(v.Silent.Duration, now.Sub(at.Time).Round(time.Second))
	}
	pods, err := podsOf(ctx, api, n.Name)
	if err != nil {
		return news, err
	}
	return append(news, v.lookAtPods(now, pods)...), nil
}

func (v *clusterView) lookAtPods(now time.Time, pods []corev1.Pod) (news []string) {
	harm := func(what string) {
		news = append(news, v.saw(now, what))
		v.Broke = append(v.Broke, what)
	}
	here := map[types.UID]bool{}
	for i := range pods {
		p := &pods[i]
		here[p.UID] = true
		s := v.pods[p.UID]
		if s == nil {
			s = &seenPod{name: p.Namespace + "/" + p.Name}
			v.pods[p.UID] = s
			news = append(news, v.saw(now, "pod "+s.name+" is new"))
		}
		if p.DeletionTimestamp != nil && !s.marked {
			s.marked = true
			if what := "pod " + s.name + " is marked for deletion in the cluster"; !s.ended {
				harm(what)
			} else {
				news = append(news, v.saw(now, what))
			}
		}
		s.ended = s.ended || !active(p)
	}
	for uid, s := range v.pods {
		if here[uid] || s.gone {
			continue
		}
		s.gone = true
		if what := "pod " + s.name + " is gone from the cluster"; !s.marked && !s.ended {
			harm(what)
		} else {
			news = append(news, v.saw(now, what))
		}
	}
	return news
}

// twins looks for pods that were made beside those that still run: more than their controller wants.
func (v *clusterView) twins(ctx context.Context, api kubernetes.Interface, now time.Time) (news []string, err error) {
	err = v.count(ctx, api, func(s *podSet, pods []*corev1.Pod) {
		if len(pods) <= s.active || len(pods) <= s.wanted(ctx, api) {
			return
		}
		newest := slices.MaxFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		if s.twins[newest.UID] {
			return
		}
		s.twins[newest.UID] = true
		what := fmt.Sprintf("pod %s/%s was made on node %q beside those of %s %s that still run", newest.Namespace, newest.Name, newest.Spec.NodeName, s.kind, s.name)
		news = append(news, v.saw(now, what))
		v.Broke = append(v.Broke, what)
	})
	return news, err
}

// wanted is how many pods the controller is to have now; 0 if that is not known.
func (s *podSet) wanted(ctx context.Context, api kubernetes.Interface) int {
	var replicas *int32
	switch s.kind {
	case "ReplicaSet":
		if o, err := api.AppsV1().ReplicaSets(s.namespace).Get(ctx, s.name, metav1.GetOptions{}); err == nil {
			replicas = o.Spec.Replicas
		}
	case "StatefulSet":
		if o, err := api.AppsV1().StatefulSets(s.namespace).Get(ctx, s.name, metav1.GetOptions{}); err == nil {
			replicas = o.Spec.Replicas
		}
	case "ReplicationController":
		if o, err := api.CoreV1().ReplicationControllers(s.namespace).Get(ctx, s.name, metav1.GetOptions{}); err == nil {
			replicas = o.Spec.Replicas
		}
	}
	if replicas == nil {
		return 0
	}
	return int(*replicas)
}
