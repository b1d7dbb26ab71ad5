package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// maxOverlayNames bounds each list of names in an overlay. A Node or Pod has a few dozen.
const maxOverlayNames = 1000

func (j *job) parseOverlay() error {
	o, err := object.DecodeOverlay(j.body)
	if err != nil {
		return fmt.Errorf("%s: %w", j.key, err)
	}
	switch {
	case j.key.Kind == object.Pods && o.Pod != nil && o.Node == nil:
		if j.write.Uid == "" {
			return fmt.Errorf("%s: a pod's overlay has no uid; a pod of the same name could get the status of another", j.key)
		}
	case j.key.Kind == object.Nodes && o.Node != nil && o.Pod == nil:
	default:
		return fmt.Errorf("%s: expected the overlay of a Pod or Node, and of that kind only", j.key)
	}
	// A node is told of by itself, and what CloudCore notes on it is not its own to change.
	if j.key.Kind == object.Nodes && j.key.Name != j.node {
		return fmt.Errorf("%s: node %q writes the status of its own Node only", j.key, j.node)
	}
	for _, keys := range []map[string]*string{o.Labels, o.Annotations} {
		for key := range keys {
			if strings.HasPrefix(key, object.OwnKeys) && key != object.AnnotationAutonomyUntil {
				delete(keys, key)
			}
		}
	}
	for _, n := range []int{len(o.Conditions), len(o.Capacity), len(o.Allocatable), len(o.Labels), len(o.Annotations)} {
		if n > maxOverlayNames {
			return fmt.Errorf("%s: the overlay names %d fields of one kind, limit %d", j.key, n, maxOverlayNames)
		}
	}
	j.overlay = o
	return nil
}

// overlay merges what the kubelet wrote into the object as it is now. The shared cache may be behind: the patch
// carries the version it was computed for, and a conflict leads to a live read.
func (a *Applier) overlay(ctx context.Context, j *job) answer {
	mode, err := a.decided(ctx)
	if err != nil {
		return answer{err: err}
	}
	if j.key.Kind == object.Nodes && a.deps.Present != nil {
		// A Node with the address that its kubelet reported is better than one without a status.
		if err := a.deps.Present(j.key.Name, j.overlay); err != nil && j.awaited {
			return answer{err: fmt.Errorf("it was there a moment ago: %w", err)} // and will be, when the edge has sent this again
		} else if err != nil {
			a.deps.Log.Warn("a Node shows its kubelet's own address, which kubectl logs and exec do not reach", "node", j.key.Name, "error", err)
		}
	}
	for try := 0; ; try++ {
		current, live, ans := a.read(ctx, j, mode, try > 0)
		if current == nil {
			return ans
		}
		if j.write.Uid != "" && j.write.Uid != string(current.GetUID()) {
			if live {
				return uidConflict(j, current)
			}
			continue // the cache may be behind, or ahead
		}
		desired := object.Merge(current, j.overlay)
		p, err := makePatch(current, desired)
		if err != nil {
			return fault(http.StatusBadRequest, metav1.StatusReasonBadRequest, "%s: %v", j.key, err)
		}
		// Whether an object of somebody else already has these fields is not for this node to learn: the API server
		// is asked, and refuses.
		if p.empty && owns(j.node, current) {
			a.m.unchanged.Inc()
			v, _ := object.VersionOf(current)
			return answer{code: http.StatusOK, version: v.RV}
		}
		ans = a.client.do(ctx, request{
			verb: http.MethodPatch, kind: j.kind, namespace: j.key.Namespace, name: j.key.Name, subresource: "status",
			contentType: p.contentType, body: p.body, as: j.node, mode: mode,
		})
		if ans.ok() {
			a.remember(j, ans)
			return ans
		}
		if ans.code != http.StatusConflict || try >= a.cfg.Conflicts || ctx.Err() != nil {
			return ans
		}
		a.m.conflicts.WithLabelValues(string(j.key.Kind)).Inc()
		pause(ctx, try)
	}
}

// read returns the object of a write: what this Applier or the cache knows, or with fresh (and where nothing is
// known) what the API server holds. live says which. Where current is nil, the answer says why.
func (a *Applier) read(ctx context.Context, j *job, mode Impersonation, fresh bool) (current object.Object, live bool, ans answer) {
	if !fresh {
		o, ok := a.deps.Objects.Object(j.key)
		var v object.Version
		if ok {
			v, _ = object.VersionOf(o)
		}
		if n, newer := a.recent.newer(j.key, v.RV); newer {
			return n, false, answer{}
		}
		if ok {
			return o, false, answer{}
		}
	}
	get := request{verb: http.MethodGet, kind: j.kind, namespace: j.key.Namespace, name: j.key.Name, as: j.node, mode: mode}
	ans = a.client.do(ctx, get)
	if ans.code == http.StatusForbidden && !ownFault(ans.status) {
		// The Node authorizer refuses to read a pod that is not in its graph, gone or not. Only CloudCore itself can
		// tell; the node learns no more than the API server would say to a status update.
		own := get
		own.as = ""
		if seen := a.client.do(ctx, own); seen.code == http.StatusNotFound {
			return nil, true, seen
		} else if seen.ok() {
			ans = seen
		}
	}
	if !ans.ok() {
		return nil, true, ans
	}
	o, err := object.Decode(j.kind, ans.body)
	if err != nil {
		return nil, true, answer{err: fmt.Errorf("read %s: %w", j.key, err)}
	}
	return o, true, ans
}

// remember keeps the object as the API server returned it after a write.
func (a *Applier) remember(j *job, ans answer) {
	if o, err := object.Decode(j.kind, ans.body); err == nil {
		a.recent.add(j.key, o)
	}
}

// owns says whether o is the node itself or a pod bound to it.
func owns(node string, o object.Object) bool {
	switch o := o.(type) {
	case *corev1.Node:
		return o.Name == node
	case *corev1.Pod:
		return o.Spec.NodeName == node
	}
	return false
}

func uidConflict(j *job, current object.Object) answer {
	ans := fault(http.StatusConflict, metav1.StatusReasonConflict, "%s has uid %s, the write is for uid %s", j.key, current.GetUID(), j.write.Uid)
	ans.final = true
	return ans
}

// errNoStatus: makePatch was given an object that no kubelet writes to.
var errNoStatus = errors.New("expected a Pod or a Node")
