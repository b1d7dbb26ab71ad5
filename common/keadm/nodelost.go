package keadm

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// outOfService says that nothing runs on a node any more: Kubernetes deletes its pods at once, without asking its kubelet,
// and detaches its volumes (since 1.28).
var outOfService = corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}

func newNodeLost(w IO) *cobra.Command {
	var kubeconfig, output string
	var off, fenced, unfenced, force bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "lost NODE --powered-off|--fenced",
		Short: "Give up a node whose machine will not come back",
		Long: "Give up a node whose machine is broken, stolen or switched off for good. Its certificates are revoked; the cluster deletes\n" +
			"its pods without asking its kubelet and detaches its volumes (by the taint node.kubernetes.io/out-of-service), so that\n" +
			"StatefulSets and whoever else must not have two of one pod make others elsewhere; then the Node and its identity go, and its\n" +
			"name is free.\n\n" +
			"Revoking stops no container, and a volume that two machines write is damaged. So --powered-off is asked for: your word that the\n" +
			"machine runs nothing. A machine of which this turns out wrong goes on with its pods, beside those that replace them.\n\n" +
			"--fenced is for a machine that nobody can reach and that may run: on a node with a steward.fenceAfter, pods annotated\n" +
			"tether.io/fence: \"true\" end by themselves once the cloud is not heard for so long. The certificates are revoked, that time is\n" +
			"waited for, and then it is done as above. Pods without the annotation may run on there; it refuses while there are any, unless\n" +
			"--unfenced-too says that they may run twice.\n\n" +
			"Nothing is done to a node that the cluster holds for Ready.",
		Example: "  keadm node lost gateway-7 --powered-off\n  keadm node lost gateway-7 --fenced",
		Args:    expects("a node, as 'keadm certs list' shows it", cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			progress, err := progressOf(w, output)
			if err != nil {
				return err
			}
			if err := positive("timeout", timeout); err != nil {
				return err
			}
			if off == fenced {
				return fmt.Errorf("%w: expected --powered-off, your word that the machine of node %s runs nothing any more, or --fenced, to wait until it has ended what must not run twice: "+
					"its pods are made again elsewhere, and its volumes taken from it; to remove a node that may still run: keadm node remove", errUsage, args[0])
			}
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			word, question := "--powered-off", "its machine must be off"
			if fenced {
				word, question = "--fenced", "what is not fenced may run on there"
			}
			r, err := findLost(c.Context(), progress, client, args[0], func() error {
				return confirmed(progress, force, fmt.Sprintf("Give up node %s? Its pods and volumes are taken from it: %s.", args[0], question))
			})
			if err != nil {
				return err
			}
			var falls time.Duration
			if fenced {
				if falls, err = r.fence(c.Context(), unfenced); err != nil {
					return err
				}
			}
			done := nodeRemovalResult{Node: r.name}
			if done.Pods, err = r.lose(c.Context(), falls, timeout); err != nil {
				return fmt.Errorf("%w; what was done stays done: run 'keadm node lost %s %s' again", err, r.name, word)
			}
			fmt.Fprintf(progress.Out, "next:    if the machine turns up, switch it on off the network and run: keadm reset edge --keep-node\n")
			return showResult(w, output, done)
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	c.Flags().BoolVar(&off, "powered-off", false, "the machine runs nothing any more, and will not by itself")
	c.Flags().BoolVar(&fenced, "fenced", false, "wait until the node, if it runs, has ended what is annotated tether.io/fence")
	c.Flags().BoolVar(&unfenced, "unfenced-too", false, "with --fenced: pods without the annotation may run twice")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long the cluster may take to delete the pods and to detach the volumes")
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	return c
}

// findLost looks up a node of which the cluster does not hear, and has it confirmed. It looks again afterwards: the question may have
// stood for long, and the machine may have come back meanwhile.
func findLost(ctx context.Context, w IO, api kubernetes.Interface, name string, confirmed func() error) (*nodeRemoval, error) {
	look := func() (*nodeRemoval, error) {
		r, err := findNode(ctx, w, api, name)
		if err != nil {
			return nil, err
		}
		return r, r.away()
	}
	if _, err := look(); err != nil {
		return nil, err
	}
	if err := confirmed(); err != nil {
		return nil, err
	}
	return look()
}

// away refuses a node that the cluster still hears of. One that is connected and not well is not Ready, and its Lease is
// renewed.
func (r *nodeRemoval) away() error {
	if r.lease != nil && r.lease.Spec.RenewTime != nil && r.lease.Spec.LeaseDurationSeconds != nil {
		at, life := r.lease.Spec.RenewTime.Time, time.Duration(*r.lease.Spec.LeaseDurationSeconds)*time.Second
		if r.w.Now().Before(at.Add(life)) {
			return fmt.Errorf("node %s was heard of at %s: expected not for the last %s; wait for that if its machine was just switched off; %s", r.name, at.UTC().Format(time.RFC3339), life, untouched)
		}
	}
	if r.node == nil {
		return nil
	}
	for _, c := range r.node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return fmt.Errorf("node %s is Ready: expected one of which the cluster has not heard for a while; a machine that was just switched off is held for Ready for up to a minute more; %s",
				r.name, untouched)
		}
	}
	return nil
}

// lose takes pods and volumes from the node, then the node from the cluster, and returns how many pods were deleted. falls is how long
// to wait in between for the node's fence.
func (r *nodeRemoval) lose(ctx context.Context, falls, timeout time.Duration) (pods int, err error) {
	if err := r.revoke(ctx); err != nil {
		return 0, err
	}
	if err := r.await(ctx, falls); err != nil {
		return 0, err
	}
	if r.node != nil {
		if pods, err = r.takeOutOfService(ctx, timeout); err != nil {
			return pods, err
		}
	}
	return pods, r.remove(ctx)
}

// takeOutOfService taints the Node and waits until the cluster has deleted its pods and detached its volumes.
func (r *nodeRemoval) takeOutOfService(ctx context.Context, timeout time.Duration) (pods int, err error) {
	here, _, err := r.held(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.taint(ctx); err != nil {
		return 0, err
	}
	quiet := IO{Out: r.w.Err, Err: r.w.Err, Now: r.w.Now} // how it ended is said in its own words
	var left []string
	err = waitFor(ctx, quiet, timeout, seldom, "the pods and volumes of node "+r.name+" to be freed", func(ctx context.Context) answer {
		var volumes []string
		if left, volumes, err = r.held(ctx); err != nil {
			return answer{missing: err.Error()}
		}
		if what := slices.Concat(left, volumes); len(what) > 0 {
			return answer{missing: strings.Join(what, ", ")}
		}
		return answer{ok: true}
	})
	pods = len(here) - len(left)
	if pods > 0 {
		fmt.Fprintf(r.w.Out, "deleted  %d pods\n", pods)
	}
	return pods, err
}

// taint adds outOfService to the Node, which may be changed by others at the same time.
func (r *nodeRemoval) taint(ctx context.Context) error {
	for range 10 {
		n, err := r.api.CoreV1().Nodes().Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read node %s: %w", r.name, err)
		}
		if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&outOfService) }) {
			return nil
		}
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion},
			"spec": map[string]any{"taints": append(n.Spec.Taints, outOfService)}})
		if err != nil {
			return fmt.Errorf("encode the taints of node %s: %w", r.name, err)
		}
		_, err = r.api.CoreV1().Nodes().Patch(ctx, r.name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
		if err == nil {
			fmt.Fprintf(r.w.Out, "tainted  node %s: %s\n", r.name, outOfService.ToString())
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("taint node %s: %w", r.name, err)
		}
	}
	return fmt.Errorf("taint node %s: others changed it each time", r.name)
}

// held names what the cluster has to take from the node: pods, but for those that tolerate everything and go with the Node,
// and volumes that are attached to it.
func (r *nodeRemoval) held(ctx context.Context) (pods, volumes []string, err error) {
	p, err := r.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", r.name).String()})
	if err != nil {
		return nil, nil, fmt.Errorf("list the pods of node %s: %w", r.name, err)
	}
	for _, x := range p.Items {
		if !slices.ContainsFunc(x.Spec.Tolerations, toleratesLoss) || x.DeletionTimestamp != nil {
			pods = append(pods, "pod "+x.Namespace+"/"+x.Name)
		}
	}
	v, err := r.api.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list what is attached to node %s: %w", r.name, err)
	}
	for _, x := range v.Items {
		if x.Spec.NodeName == r.name {
			volumes = append(volumes, "volume attachment "+x.Name)
		}
	}
	return pods, volumes, nil
}

// toleratesLoss says whether a pod with this toleration stays on a node that is out of service.
func toleratesLoss(t corev1.Toleration) bool {
	if t.TolerationSeconds != nil || t.Effect != "" && t.Effect != outOfService.Effect {
		return false
	}
	if t.Operator == corev1.TolerationOpExists {
		return t.Key == "" || t.Key == outOfService.Key
	}
	return t.Key == outOfService.Key && t.Value == outOfService.Value
}
