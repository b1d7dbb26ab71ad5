package keadm

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/trust"
)

func newNode(w IO) *cobra.Command {
	return newGroup("node", "Take away nodes that cannot be reset at their machines", newNodeRemove(w), newNodeLost(w))
}

// nodeRemoval takes a node away beside the cluster, from where its machine cannot be reached.
type nodeRemoval struct {
	w     IO
	api   kubernetes.Interface
	trust *trust.Store
	name  string
	// node and lease are what the cluster has of it; nil if nothing.
	node  *corev1.Node
	lease *coordinationv1.Lease
}

// nodeRemovalResult is what came of it, for programs.
type nodeRemovalResult struct {
	Node string `json:"node"`
	// Pods is how many pods the cluster deleted before the Node went; those that are left follow it within a minute or so.
	Pods int `json:"pods"`
}

// findNode looks up what there is to take away. It changes nothing, and refuses what is no edge's.
func findNode(ctx context.Context, w IO, api kubernetes.Interface, name string) (*nodeRemoval, error) {
	r := &nodeRemoval{w: w, api: api, trust: trust.New(api, w.Now), name: name}
	n, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		r.node = n
		if want := object.ProviderIDPrefix + name; n.Spec.ProviderID != want {
			return nil, fmt.Errorf("node %s is not an edge's: expected spec.providerID %q, found %q; 'kubectl delete node' removes others; %s", name, want, n.Spec.ProviderID, untouched)
		}
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read node %s: %w", name, err)
	}
	l, err := api.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		// Without the Node, another one's kubelet may have left it.
		if _, edge := l.Labels[object.LabelEdge]; edge || r.node != nil {
			r.lease = l
		}
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read the lease of node %s: %w", name, err)
	}
	id, err := r.trust.Identity(ctx, name)
	if err != nil {
		return nil, err
	}
	if id == nil && r.node == nil && r.lease == nil {
		return nil, fmt.Errorf("there is no node %q: expected one of those that 'keadm certs list' or 'kubectl get nodes --selector node-role.kubernetes.io/edge' shows; %s", name, untouched)
	}
	return r, nil
}

// revoke makes the machine's certificates worthless: it can no longer connect, and so write nothing into what is taken away.
func (r *nodeRemoval) revoke(ctx context.Context) error {
	if _, err := r.trust.Revoke(ctx, r.name); err != nil {
		return err
	}
	fmt.Fprintf(r.w.Out, "revoked  the certificates of node %s\n", r.name)
	return nil
}

// removeTimeout bounds the deletion of a Node and its Lease, which is a few requests.
const removeTimeout = 30 * time.Second

// remove removes the Node, its Lease with the copy of the Node, and the record of its identity, in an order that can be gone
// through again: CloudCore makes a Node again whose Lease does not say that it was removed.
func (r *nodeRemoval) remove(ctx context.Context) error {
	leases := r.api.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if r.lease != nil {
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, object.AnnotationRemoved, r.w.Now().UTC().Format(time.RFC3339))
		if _, err := leases.Patch(ctx, r.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark the lease of node %s, so that its Node is not made again: %w", r.name, err)
		}
	}
	quiet := IO{Out: r.w.Err, Err: r.w.Err, Now: r.w.Now}
	// A session that is just ending may write its Lease once more: that goes too.
	err := waitFor(ctx, quiet, removeTimeout, often, "node "+r.name+" to be gone", func(ctx context.Context) answer {
		node := r.api.CoreV1().Nodes().Delete(ctx, r.name, metav1.DeleteOptions{})
		var lease error
		if r.lease != nil {
			lease = leases.Delete(ctx, r.name, metav1.DeleteOptions{})
		}
		for _, err := range []error{node, lease} {
			if err != nil && !apierrors.IsNotFound(err) {
				return answer{missing: err.Error()}
			}
		}
		return answer{ok: apierrors.IsNotFound(node) && (r.lease == nil || apierrors.IsNotFound(lease)), missing: "it was there"}
	})
	if err != nil {
		return err
	}
	if err := r.trust.Forget(ctx, r.name); err != nil {
		return err
	}
	fmt.Fprintf(r.w.Out, "removed  node %s from the cluster\n", r.name)
	return nil
}

func newNodeRemove(w IO) *cobra.Command {
	var kubeconfig, output string
	var force bool
	c := &cobra.Command{
		Use:   "remove NODE",
		Short: "Remove a node for good, beside the cluster",
		Long: "Remove a node for good whose machine cannot be reset: revoke its certificates, delete its Node, and forget its identity, so that\n" +
			"its name is free. 'kubectl delete node' alone is undone by CloudCore, as a slip must not cost a site its pods. On a machine that\n" +
			"can be reached run 'keadm reset edge' instead, which moves its pods first.\n\n" +
			"Nothing reaches the machine any more: while it runs, so do its pods, until 'keadm reset edge --keep-node' on it. The cluster\n" +
			"deletes its own objects of these pods within about a minute and makes others in their stead, elsewhere. Where two of one pod\n" +
			"would do harm, switch the machine off, and see 'keadm node lost'. Devices stay, and may name another node.",
		Example: "  keadm node remove gateway-7",
		Args:    expects("a node, as 'keadm certs list' shows it", cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			progress, err := progressOf(w, output)
			if err != nil {
				return err
			}
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			r, err := findNode(c.Context(), progress, client, args[0])
			if err != nil {
				return err
			}
			if err := confirmed(progress, force, fmt.Sprintf("Remove node %s for good? Its machine, if it runs, goes on with its pods, and is told nothing.", r.name)); err != nil {
				return err
			}
			if err := r.revoke(c.Context()); err != nil {
				return err
			}
			if err := r.remove(c.Context()); err != nil {
				return fmt.Errorf("%w; what was done stays done: run 'keadm node remove %s' again", err, r.name)
			}
			fmt.Fprintf(progress.Out, "next:    on the machine, if it is ever switched on again: keadm reset edge --keep-node\n")
			return showResult(w, output, nodeRemovalResult{Node: r.name})
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	return c
}
