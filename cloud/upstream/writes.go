package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

func (j *job) parseDelete() error {
	if j.key.Kind != object.Pods {
		return fmt.Errorf("%s: a kubelet deletes pods only", j.key)
	}
	if j.write.Uid == "" {
		return fmt.Errorf("%s: a deletion has no uid; it could hit a new pod of the same name", j.key)
	}
	return nil
}

// delete ends a pod: grace 0, and only the incarnation that the edge saw ended. Finalizers keep the object: the
// deletion is done all the same.
func (a *Applier) delete(ctx context.Context, j *job) answer {
	mode, err := a.decided(ctx)
	if err != nil {
		return answer{err: err}
	}
	uid, grace := types.UID(j.write.Uid), int64(0)
	body, err := json.Marshal(&metav1.DeleteOptions{
		TypeMeta:           metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil {
		return answer{err: fmt.Errorf("encode delete options: %w", err)}
	}
	for try := 0; ; try++ {
		ans := a.client.do(ctx, request{
			verb: http.MethodDelete, kind: j.kind, namespace: j.key.Namespace, name: j.key.Name,
			contentType: jsonType, body: body, as: j.node, mode: mode,
		})
		if ans.code != http.StatusConflict && ans.code != http.StatusNotFound {
			return ans
		}
		// NodeRestriction takes a pod that its own watch has not brought yet for one that is not there; and a conflict does
		// not say in a stable way whether the uid or another writer was in the way.
		current, _, seen := a.read(ctx, j, mode, true)
		switch {
		case current == nil && seen.code == http.StatusNotFound:
			return seen
		case current != nil && string(current.GetUID()) != j.write.Uid:
			return uidConflict(j, current)
		case current == nil || try >= a.cfg.Conflicts || ctx.Err() != nil:
			if ans.code == http.StatusNotFound { // which would be final
				return answer{err: fmt.Errorf("delete %s: the API server has it, and says that it has not: %s", j.key, ans.status.Message)}
			}
			return ans
		}
		a.m.conflicts.WithLabelValues(string(j.key.Kind)).Inc()
		pause(ctx, try)
	}
}

// maxObject bounds the objects that an edge writes whole, in bytes: Events and its CSINode have a few hundred. Two bytes of
// theirs may become a hundred when they are decoded.
const maxObject = 64 << 10

// parseObject reads the body as the object of the key.
func (j *job) parseObject() error {
	if len(j.body) > maxObject {
		return fmt.Errorf("%s: an object of %d bytes, expected at most %d", j.key, len(j.body), maxObject)
	}
	o, err := object.Decode(j.kind, j.body)
	if err != nil {
		return fmt.Errorf("%s: %w", j.key, err)
	}
	if got := object.KeyOf(j.key.Kind, o); got != j.key {
		return fmt.Errorf("%s: the body is of %s", j.key, got)
	}
	o.SetResourceVersion("")
	o.SetUID("")
	o.SetManagedFields(nil)
	j.object = o
	return nil
}

func (j *job) parseCreate() error {
	if j.key.Kind != object.Events {
		return fmt.Errorf("%s: an edge creates Events only", j.key)
	}
	return j.parseEvent()
}

func (j *job) parseEvent() error {
	if err := j.parseObject(); err != nil {
		return err
	}
	e := j.object.(*corev1.Event)
	// The API server's own rule: an Event lives in the namespace of its object, one about a cluster-scoped object in default.
	want := e.InvolvedObject.Namespace
	if want == "" {
		want = metav1.NamespaceDefault
	}
	if e.Namespace != want {
		return fmt.Errorf("%s: an Event about an object in namespace %q belongs into namespace %q", j.key, e.InvolvedObject.Namespace, want)
	}
	return nil
}

// create makes an Event. An Event that is there already was made by an earlier try of this write.
func (a *Applier) create(ctx context.Context, j *job) answer {
	if ans, foreign := a.foreignEvent(j); foreign {
		return ans
	}
	ans := a.write(ctx, j, http.MethodPost, "")
	if ans.code == http.StatusConflict && ans.reason() == metav1.StatusReasonAlreadyExists {
		ans.final = true
	}
	return ans
}

// foreignEvent refuses an Event about what another node says.
func (a *Applier) foreignEvent(j *job) (answer, bool) {
	e := j.object.(*corev1.Event)
	if e.Source.Host == j.node && (e.ReportingInstance == "" || e.ReportingInstance == j.node) {
		return answer{}, false
	}
	a.m.dropped.WithLabelValues("foreign source").Inc()
	ans := fault(http.StatusForbidden, metav1.StatusReasonForbidden,
		"%s: the Event's source is host %q, reporting instance %q; node %q reports its own only", j.key, e.Source.Host, e.ReportingInstance, j.node)
	ans.final = true
	return ans, true
}

// putEvent replaces an Event by its newer count. The API server creates one that is not there (any more).
func (a *Applier) putEvent(ctx context.Context, j *job) answer {
	if ans, foreign := a.foreignEvent(j); foreign {
		return ans
	}
	j.object.SetResourceVersion("")
	j.object.SetUID("")
	return a.write(ctx, j, http.MethodPut, j.key.Name)
}

func (j *job) parsePut() error {
	switch j.key.Kind {
	case object.Events:
		return j.parseEvent()
	case object.CSINodes:
	default:
		return fmt.Errorf("%s: an edge puts its CSINode and its Events only", j.key)
	}
	if j.key.Name != j.node {
		return fmt.Errorf("%s: node %q puts its own CSINode only", j.key, j.node)
	}
	return j.parseObject()
}

// put creates the node's CSINode or an Event, or replaces the one that is there.
func (a *Applier) put(ctx context.Context, j *job) answer {
	if j.key.Kind == object.Events {
		return a.putEvent(ctx, j)
	}
	mode, err := a.decided(ctx)
	if err != nil {
		return answer{err: err}
	}
	for try := 0; ; try++ {
		current, live, seen := a.read(ctx, j, mode, try > 0)
		var ans answer
		switch {
		case current == nil && seen.code != http.StatusNotFound:
			return seen
		case current == nil && j.write.Uid != "":
			return seen // the incarnation that the edge wrote to is gone
		case current == nil:
			j.object.SetResourceVersion("")
			j.object.SetUID("")
			ans = a.write(ctx, j, http.MethodPost, "")
		case j.write.Uid != "" && j.write.Uid != string(current.GetUID()):
			if live {
				return uidConflict(j, current)
			}
			continue
		default:
			j.object.SetResourceVersion(current.GetResourceVersion())
			j.object.SetUID(current.GetUID())
			ans = a.write(ctx, j, http.MethodPut, j.key.Name)
		}
		if ans.ok() {
			a.remember(j, ans)
			return ans
		}
		// AlreadyExists is a conflict too. A 404 from a cache that was behind leads to a create.
		stale := ans.code == http.StatusConflict || (ans.code == http.StatusNotFound && !live)
		if !stale || try >= a.cfg.Conflicts || ctx.Err() != nil {
			return ans
		}
		a.m.conflicts.WithLabelValues(string(j.key.Kind)).Inc()
		pause(ctx, try)
	}
}

// write sends the job's object.
func (a *Applier) write(ctx context.Context, j *job, verb, name string) answer {
	mode, err := a.decided(ctx)
	if err != nil {
		return answer{err: err}
	}
	body, err := object.Encode(j.kind, j.object)
	if err != nil {
		return fault(http.StatusBadRequest, metav1.StatusReasonBadRequest, "%s: %v", j.key, err)
	}
	return a.client.do(ctx, request{
		verb: verb, kind: j.kind, namespace: j.key.Namespace, name: name, contentType: protobufType, body: body,
		as: j.node, mode: mode,
	})
}
