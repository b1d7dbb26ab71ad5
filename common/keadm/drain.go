package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/object"
)

const (
	// drainTimeout is how long a node's pods may take to go, unless --drain-timeout says otherwise.
	drainTimeout = 2 * time.Minute
	// askTimeout bounds a request to the node's own API, which waits at most 10 s for the cloud's answer.
	askTimeout = 15 * time.Second
	// evictAgain is how long not to ask again for an eviction that was refused.
	evictAgain = 5 * time.Second
)

// drainer has the cluster move a node's pods to other nodes, through the node's own API and in the node's name.
type drainer struct {
	w    IO
	node string
	api  kubernetes.Interface
	// status asks edgecore how it is.
	status func(context.Context) (*edgeStatus, error)
	// evicted are the pods that the cloud has agreed to end, gone those that it did not have any more, refused when to ask
	// again for the others and why not now; by uid.
	evicted, gone map[types.UID]bool
	refused       map[types.UID]refusal
	// empty is since when none of them is here; zero while there is one.
	empty time.Time
}

type refusal struct {
	again time.Time
	why   string
}

// drained is what came of it, for programs.
type drained struct {
	// Pods is how many were evicted.
	Pods int `json:"pods"`
	// Failed says why the node was not drained, or not wholly; empty if it was.
	Failed string `json:"failed,omitempty"`
}

// localAPI returns a client of the node's own API.
func localAPI(dataDir string) (kubernetes.Interface, error) {
	config, err := localConfig(dataDir)
	if err != nil {
		return nil, err
	}
	config.Timeout = askTimeout
	return kubernetes.NewForConfig(config)
}

// drain drains the node if that is possible, and says why if it is not: only an interruption keeps a reset from going on.
func (r *edgeReset) drain(ctx context.Context) (*drained, error) {
	api, err := r.api(r.files.data)
	if err != nil {
		return r.notDrained(0, err), nil
	}
	d := &drainer{w: r.w, node: r.cfg.NodeName, api: api, evicted: map[types.UID]bool{}, gone: map[types.UID]bool{}, refused: map[types.UID]refusal{},
		status: func(ctx context.Context) (*edgeStatus, error) { return askStatus(ctx, r.cfg) }}
	if err := d.cordon(ctx); err != nil && ctx.Err() == nil {
		return r.notDrained(0, err), nil
	}
	r.cordoned = true // or may be: an interrupted request is perhaps heard
	err = d.evict(ctx, r.drainTimeout)
	switch {
	case errors.Is(err, errInterrupted):
		return nil, fmt.Errorf("%w; nothing was removed", err)
	case err != nil:
		return r.notDrained(len(d.evicted), err), nil
	case len(d.evicted) > 0:
		fmt.Fprintf(r.w.Out, "drained  %d pods\n", len(d.evicted))
	}
	return &drained{Pods: len(d.evicted)}, nil
}

func (r *edgeReset) notDrained(pods int, why error) *drained {
	fmt.Fprintf(r.w.Err, "keadm: not drained, because %v\n      the pods that are here end with their grace periods, without preStop hooks\n", why)
	return &drained{Pods: pods, Failed: why.Error()}
}

// cordon has the node take no more pods: those in the stead of the evicted would come back to it.
func (d *drainer) cordon(ctx context.Context) error {
	_, err := d.api.CoreV1().Nodes().Patch(ctx, d.node, types.MergePatchType, []byte(object.Cordon), metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("the cluster could not be told through edgecore that node %s takes no more pods: %w", d.node, err)
	}
	return nil
}

// evict evicts the pods that have a controller that makes others in their stead, and waits until they, and others whose
// deletion is under way, have ended here and the cloud has been told: who stops edgecore earlier keeps the cluster from
// learning that they ended. Disruption budgets are heeded.
func (d *drainer) evict(ctx context.Context, limit time.Duration) error {
	quiet := IO{Out: io.Discard, Err: d.w.Err, Now: d.w.Now} // how it ended is said in its own words
	return waitFor(ctx, quiet, limit, often, "the pods of node "+d.node+" to move", func(ctx context.Context) answer {
		pods, err := d.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return answer{missing: err.Error()}
		}
		var here []string
		for _, p := range pods.Items {
			if d.ending(&p) || movable(&p) {
				if stands := d.ask(ctx, &p); stands != "" {
					here = append(here, stands)
				}
			}
		}
		if len(here) > 0 {
			slices.Sort(here)
			d.empty = time.Time{}
			return answer{missing: strings.Join(here, "; ")}
		}
		return d.told(ctx)
	})
}

// told says whether the cloud has been told of all that ended here. Writes that were made later do not count: at a node
// with devices there may always be some.
func (d *drainer) told(ctx context.Context) answer {
	if d.empty.IsZero() {
		d.empty = d.w.Now()
	}
	s, err := d.status(ctx)
	if err == nil && s.Unread != "" {
		err = errors.New(s.Unread)
	}
	if err != nil {
		return answer{missing: "the pods have ended here, and edgecore does not say whether the cloud knows: " + err.Error()}
	}
	for _, w := range s.Outbox {
		if w.Class == stateClass && !w.Oldest.After(d.empty) {
			return answer{missing: fmt.Sprintf("the pods have ended here, and the cloud may not know: %d of class %s wait for it", w.Count, w.Class)}
		}
	}
	return answer{ok: true}
}

// ending says whether a pod's deletion is under way. Its phase does not tell: a pod that has succeeded or failed is not
// deleted before its kubelet says so.
func (d *drainer) ending(p *corev1.Pod) bool {
	return d.evicted[p.UID] || p.DeletionTimestamp != nil && !object.IsMirror(p)
}

// movable says whether something makes another pod elsewhere in a pod's stead, as kubectl drain does.
func movable(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && owner.Kind != "DaemonSet" && !object.IsMirror(p) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// ask asks for a pod's eviction, unless it is granted or was refused just now, and returns how things stand; nothing of
// one that is gone.
func (d *drainer) ask(ctx context.Context, p *corev1.Pod) string {
	name := p.Namespace + "/" + p.Name
	switch {
	case d.gone[p.UID]:
		return ""
	case d.ending(p):
		return name + " is ending"
	}
	if r := d.refused[p.UID]; d.w.Now().Before(r.again) {
		return name + " stays: " + r.why
	}
	err := d.api.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}})
	switch {
	case err == nil:
		d.evicted[p.UID] = true
		return name + " is ending"
	case apierrors.IsNotFound(err):
		d.gone[p.UID] = true
		return ""
	}
	d.refused[p.UID] = refusal{d.w.Now().Add(evictAgain), err.Error()}
	return name + " stays: " + err.Error()
}
