package kubeapi

import (
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/tether-edge/tether/common/object"
)

// nodes is the Node resource: the kubelet registers itself, labels and annotates itself, and writes its status.
type nodes struct{ *updater }

// Create registers this node: 409 once it is known, else the cloud decides.
func (n *nodes) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	node := o.(*corev1.Node)
	if node.Name != n.s.cfg.NodeName {
		return nil, n.s.notOwnNode(n.resource, node.Name)
	}
	if !n.synced() {
		return nil, n.errNotSynced()
	}
	_, ok, err := n.src.Get(ctx, n.key(ctx, node.Name))
	if err != nil {
		return nil, internal(ctx, "read the store", err)
	}
	if ok {
		return nil, apierrors.NewAlreadyExists(n.groupResource(), node.Name)
	}
	return n.s.callCreate(ctx, n.kind, "", node, opts)
}

// notOwnNode refuses a write to another node, as NodeRestriction does.
func (s *Server) notOwnNode(r *resource, name string) error {
	return forbidden(r.groupResource(), name, "node %q is not allowed to modify node %q", s.cfg.NodeName, name)
}

// changeNode accepts labels and annotations, and that the node takes no more pods, which cordon does. It refuses what else
// the cloud owns.
func (s *Server) changeNode(r *resource) changeFunc {
	return func(ctx context.Context, rec *object.Record, o, n object.Object) (*object.Change, error) {
		old, next := o.(*corev1.Node), n.(*corev1.Node)
		if !apiequality.Semantic.DeepEqual(old.Spec.Taints, next.Spec.Taints) {
			return nil, forbidden(r.groupResource(), old.Name, "node %q is not allowed to modify taints", s.cfg.NodeName)
		}
		spec := *old.Spec.DeepCopy()
		spec.Unschedulable = spec.Unschedulable || next.Spec.Unschedulable
		if !apiequality.Semantic.DeepEqual(spec, next.Spec) {
			return nil, forbidden(r.groupResource(), old.Name, "the cloud owns the spec of a Node: change it there")
		}
		next.Status = old.Status
		return s.nodeOverlay(ctx, r, rec, old, next)
	}
}

// cordon tells the cloud that this node is to take no more pods, where an update says so. The Node here follows when the
// cloud's comes down.
func (s *Server) cordon(ctx context.Context, o, n object.Object) error {
	old, next := o.(*corev1.Node), n.(*corev1.Node)
	if old.Spec.Unschedulable || !next.Spec.Unschedulable {
		return nil
	}
	reply, err := s.call(ctx, object.Call{
		Verb: "patch", Key: object.Key{Kind: object.Nodes, Name: s.cfg.NodeName}, ContentType: string(types.MergePatchType), Body: []byte(object.Cordon),
	})
	if err != nil {
		return unavailable("the cloud owns the spec of a Node: %v", err)
	}
	_, err = s.readReply(ctx, reply)
	return err
}

// changeNodeStatus accepts the status, and labels and annotations, which the kubelet sends through it.
func (s *Server) changeNodeStatus(r *resource) changeFunc {
	return func(ctx context.Context, rec *object.Record, o, n object.Object) (*object.Change, error) {
		old, next := o.(*corev1.Node), n.(*corev1.Node)
		next.Spec = old.Spec
		if s.isKubelet(ctx) {
			s.late.wrote(old, next)
		}
		return s.nodeOverlay(ctx, r, rec, old, next)
	}
}

func (s *Server) nodeOverlay(ctx context.Context, r *resource, rec *object.Record, old, next *corev1.Node) (*object.Change, error) {
	if old.Name != s.cfg.NodeName {
		return nil, s.notOwnNode(r, old.Name)
	}
	// The API server would refuse them to the node for ever, and the message would block the Node's status with it.
	if bad := refusedLabels(old.Labels, next.Labels); len(bad) > 0 {
		return nil, forbidden(r.groupResource(), old.Name, "is not allowed to modify labels: %s", strings.Join(bad, ", "))
	}
	if bad := append(tethers(old.Labels, next.Labels), tethers(old.Annotations, next.Annotations)...); len(bad) > 0 && !s.isOwn(ctx) {
		return nil, forbidden(r.groupResource(), old.Name, "the cloud and edgecore own these labels and annotations: %s", strings.Join(bad, ", "))
	}
	if !s.isOwn(ctx) && !(apiequality.Semantic.DeepEqual(old.OwnerReferences, next.OwnerReferences) && apiequality.Semantic.DeepEqual(old.Finalizers, next.Finalizers)) {
		return nil, forbidden(r.groupResource(), old.Name, "ownerReferences and finalizers: %s", cloudOwns)
	}
	next.OwnerReferences, next.Finalizers = old.OwnerReferences, old.Finalizers
	return s.overlayChange(r.kind, rec, old, next, object.PriorityNode)
}

// tethers returns, sorted, the labels or annotations of Tether's that the update changes: CloudCore drops what is its own, and would show
// what is edgecore's as the node's word.
func tethers(old, next map[string]string) []string {
	bad := map[string]struct{}{}
	for _, all := range []map[string]string{old, next} {
		for key := range all {
			was, had := old[key]
			is, has := next[key]
			if strings.HasPrefix(key, object.OwnKeys) && (was != is || had != has) {
				bad[key] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(bad))
}

// refusedLabels returns, sorted, the labels that the update changes and that NodeRestriction keeps from nodes.
func refusedLabels(old, next map[string]string) []string {
	var bad []string
	note := func(key string) {
		ns, _, _ := strings.Cut(key, "/")
		reserved := ns == corev1.LabelNamespaceNodeRestriction || strings.HasSuffix(ns, "."+corev1.LabelNamespaceNodeRestriction)
		kubernetes := ns == "kubernetes.io" || strings.HasSuffix(ns, ".kubernetes.io") || ns == "k8s.io" || strings.HasSuffix(ns, ".k8s.io")
		if reserved || (kubernetes && !kubeletapis.IsKubeletLabel(key)) {
			bad = append(bad, key)
		}
	}
	for k, v := range next {
		if was, ok := old[k]; !ok || was != v {
			note(k)
		}
	}
	for k := range old {
		if _, ok := next[k]; !ok {
			note(k)
		}
	}
	slices.Sort(bad)
	return bad
}
