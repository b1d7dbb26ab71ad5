package keadm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/object"
)

func newDrill(w IO) *cobra.Command {
	var kubeconfig, output string
	var last bool
	var o drill.Order
	var length, timeout time.Duration
	c := &cobra.Command{
		Use:   "drill NODE",
		Short: "Cut a node's link for a while, for real, and see whether its site goes on alone",
		Long: "Cut a node's link for a while, for real, and see whether its site goes on alone: the node is asked, agrees, reaches\n" +
			"the cloud in no way until the time is over, and then reports what it saw; meanwhile the cluster is watched from here.\n" +
			"The node ends the cut by itself, though CloudCore, the cluster or this command is gone by then; 'keadm ctl drill stop'\n" +
			"at the node ends it earlier.\n\n" +
			"Pods, devices and whoever uses them at the site go on; who needs the cluster, or is reached from there, does without.\n" +
			"Nothing is done to the site's other networks: registries, for one, are heard as before.\n\n" +
			"The node refuses where its kubelet does not run, where it says itself that it cannot go on alone (--force), where its\n" +
			"configuration has drills: false, and what it hears five minutes late. The exit code is 0 if nothing broke, and 1 if\n" +
			"something did or there was no drill.",
		Example: "  keadm drill gateway-7 --for 10m\n" +
			"  keadm drill gateway-7 --for 1h --power        # and kill edgecore in the middle\n" +
			"  keadm drill gateway-7 --show                  # how the last one went",
		Args: expects("a node, as 'kubectl get nodes' shows it", cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			progress, err := progressOf(w, output)
			if err != nil {
				return err
			}
			if length < drill.Min || length > drill.Max {
				return fmt.Errorf("%w: --for: expected %s to %s, found %s", errUsage, drill.Min, drill.Max, length)
			}
			if err := positive("timeout", timeout); err != nil {
				return err
			}
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			d := &driller{w: progress, api: client, name: args[0], patience: timeout}
			if last {
				return d.show(c.Context(), w, output)
			}
			o.For.Duration, o.ID, o.Issued = length, newDrillID(), w.Now().UTC().Truncate(time.Second)
			result, err := d.run(c.Context(), o)
			if err != nil {
				return err
			}
			if err := show(w.Out, output, result, result.write); err != nil {
				return err
			}
			return result.verdict()
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	c.Flags().DurationVar(&length, "for", 10*time.Minute, "how long to cut the link")
	c.Flags().BoolVar(&o.Power, "power", false, "kill edgecore in the middle, as a power cut of it would; whoever supervises it starts it again")
	c.Flags().BoolVar(&o.Force, "force", false, "begin though the node says that it cannot go on alone")
	c.Flags().BoolVar(&last, "show", false, "print what the node says of its last drill, and order none")
	c.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long the node may take to be back after the cut")
	return c
}

func newDrillID() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// A driller orders a drill of one node and watches it from the cluster's side.
type driller struct {
	w    IO
	api  kubernetes.Interface
	name string
	// patience is how long the node may take to be back after the cut.
	patience time.Duration
	view     clusterView
}

// find returns the Node, which must be an edge's.
func (d *driller) find(ctx context.Context) (*corev1.Node, error) {
	n, err := d.api.CoreV1().Nodes().Get(ctx, d.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no node %q: expected one that 'kubectl get nodes --selector node-role.kubernetes.io/edge' shows", d.name)
	}
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", d.name, err)
	}
	if want := object.ProviderIDPrefix + d.name; n.Spec.ProviderID != want {
		return nil, fmt.Errorf("node %s is not an edge's: expected spec.providerID %q, found %q", d.name, want, n.Spec.ProviderID)
	}
	return n, nil
}

// stateOf is what a node says of its last drill; nil if it says nothing.
func stateOf(n *corev1.Node) (*drill.State, error) {
	text, ok := n.Annotations[drill.AnnotationState]
	if !ok {
		return nil, nil
	}
	return drill.ParseState(text)
}

// show prints what the node says of its last drill.
func (d *driller) show(ctx context.Context, w IO, output string) error {
	n, err := d.find(ctx)
	if err != nil {
		return err
	}
	s, err := stateOf(n)
	if err != nil {
		return err
	}
	if s == nil {
		return fmt.Errorf("node %s says nothing of a drill: expected one that was ordered before; 'keadm drill %s' orders one", d.name, d.name)
	}
	return show(w.Out, output, s, func(t io.Writer) { writeState(t, s) })
}

// run orders a drill and watches it to its end.
func (d *driller) run(ctx context.Context, o drill.Order) (*drillResult, error) {
	if err := d.order(ctx, o); err != nil {
		return nil, err
	}
	if err := d.agreed(ctx, o); err != nil {
		return nil, err
	}
	fmt.Fprintf(d.w.Out, "agreed   the link is cut until about %s; the node ends that by itself, 'keadm ctl drill stop' there ends it earlier\n",
		stamp(d.w.Now().Add(o.For.Duration)))
	return d.watch(ctx, o)
}

// order writes the order into the Node, unless a drill is under way or the node is not there to hear it.
func (d *driller) order(ctx context.Context, o drill.Order) error {
	for range 10 {
		n, err := d.find(ctx)
		if err != nil {
			return err
		}
		if why := d.unfit(n); why != "" {
			return fmt.Errorf("%s; no drill was ordered", why)
		}
		if err := d.view.begin(ctx, d.api, n); err != nil {
			return err
		}
		err = d.annotate(ctx, n, new(o.Text()))
		if err == nil {
			fmt.Fprintf(d.w.Out, "ordered  drill %s of node %s for %s\n", o.ID, d.name, o.For.Duration)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("order a drill of node %s: %w", d.name, err)
		}
	}
	return fmt.Errorf("order a drill of node %s: others changed the Node each time", d.name)
}

// unfit is why no drill can be ordered now.
func (d *driller) unfit(n *corev1.Node) string {
	if status, why := readiness(n); status != corev1.ConditionTrue {
		return fmt.Sprintf("node %s is not Ready: expected one that is well, found Ready %s: %s", d.name, status, why)
	}
	// What cannot be read is of another version, and nothing to wait for.
	last, err := drill.ParseOrder(n.Annotations[drill.AnnotationOrder])
	if err != nil || d.w.Now().After(last.Issued.Add(drill.MaxAge+last.For.Duration+d.patience)) {
		return ""
	}
	if s, err := stateOf(n); err == nil && s != nil && s.ID == last.ID {
		if s.Phase.Over() {
			return ""
		}
		return fmt.Sprintf("drill %s of node %s is under way: it is %s; 'keadm drill %s --show' says how it went", s.ID, d.name, s.Phase, d.name)
	}
	if d.w.Now().After(last.Issued.Add(drill.MaxAge)) {
		return ""
	}
	return fmt.Sprintf("node %s has not answered the order for drill %s of %s yet", d.name, last.ID, stamp(last.Issued))
}

// annotate sets the order, or takes it away with nil; the Node must be as it was read.
func (d *driller) annotate(ctx context.Context, n *corev1.Node, order *string) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion,
		"annotations": map[string]*string{drill.AnnotationOrder: order}}})
	if err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	_, err = d.api.CoreV1().Nodes().Patch(ctx, d.name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager})
	return err
}

// agreed waits for the node's agreement. Without one the order is taken back, so that it is not met later.
func (d *driller) agreed(ctx context.Context, o drill.Order) error {
	quiet := IO{Out: io.Discard, Err: d.w.Err, Now: d.w.Now} // how it ended is said in its own words
	err := waitFor(ctx, quiet, drill.AgreeWithin, often, "node "+d.name+" to answer", func(ctx context.Context) answer {
		n, err := d.find(ctx)
		if err != nil {
			return answer{missing: err.Error()}
		}
		s, err := stateOf(n)
		switch {
		case err != nil:
			return answer{missing: err.Error()}
		case s == nil || s.ID != o.ID && !(s.ID == "" && s.Phase == drill.Refused):
			return answer{missing: "it has not heard the order"}
		case s.Phase == drill.Refused, s.Phase == drill.CalledOff:
			return answer{failed: fmt.Errorf("there is no drill: %s", s.Why)}
		}
		return answer{ok: true}
	})
	if err == nil {
		return nil
	}
	// Also after an interruption.
	wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	if werr := d.withdraw(wctx, o); werr != nil {
		return fmt.Errorf("%w; the order could not be taken back: %w", err, werr)
	}
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("%w; the order was taken back; an edgecore that knows no drills answers none", err)
	}
	return err
}

func (d *driller) withdraw(ctx context.Context, o drill.Order) error {
	for range 10 {
		n, err := d.find(ctx)
		if err != nil {
			return err
		}
		if n.Annotations[drill.AnnotationOrder] != o.Text() {
			return nil
		}
		if err := d.annotate(ctx, n, nil); !apierrors.IsConflict(err) {
			return err
		}
	}
	return errors.New("others changed the Node each time")
}

// readiness is how the cluster holds a node to be.
func readiness(n *corev1.Node) (status corev1.ConditionStatus, why string) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status, strings.TrimSpace(c.Reason + " " + c.Message)
		}
	}
	return corev1.ConditionUnknown, "it has no such condition"
}
