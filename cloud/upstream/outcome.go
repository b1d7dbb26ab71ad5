package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Hints for the edge's next try where the API server gave none. The edge's own back-off comes on top.
const (
	retryConflict  = 250 * time.Millisecond
	retryServer    = time.Second
	retryForbidden = 5 * time.Second
	// retryBehind is of a write that waited in vain, and up to three times as much: many others do.
	retryBehind = 5 * time.Second
)

// definitive says whether a code ends a write by itself. Conflicts are judged by what they are about.
func definitive(code int) bool {
	switch code {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusGone, http.StatusUnprocessableEntity:
		return true
	}
	return code >= 200 && code < 300
}

// result turns an answer into what the edge is told.
func (a *Applier) result(j *job, ans answer) *wire.Result {
	r := &wire.Result{Code: int32(ans.code), Final: ans.final || definitive(ans.code), ResourceVersion: ans.version}
	if ans.status != nil {
		r.Reason, r.Message = string(ans.status.Reason), ans.status.Message
	}
	if ans.ok() && r.ResourceVersion == 0 {
		r.ResourceVersion = a.versionOf(j, ans)
	}
	if ans.err != nil {
		r.Reason, r.Message = "Timeout", ans.err.Error()
		if !errors.Is(ans.err, context.DeadlineExceeded) {
			r.Reason = "ServiceUnavailable"
		}
	}
	if ans.code == http.StatusForbidden && !ans.final {
		r.Final = a.forbidden(j, ans)
	}
	if r.Final {
		a.denied.forget(j)
		return r
	}
	after := ans.retryAfter
	if after == 0 {
		after = hint(ans.code)
	}
	r.RetryAfterMs = after.Milliseconds()
	return r
}

// hint is when to try again where the API server did not say.
func hint(code int) time.Duration {
	switch code {
	case http.StatusConflict:
		return retryConflict
	case http.StatusForbidden, http.StatusUnauthorized:
		return retryForbidden
	}
	return retryServer
}

// forbidden counts a refusal and says whether it ends the write: only for an event, after it was refused for long.
func (a *Applier) forbidden(j *job, ans answer) (final bool) {
	if ownFault(ans.status) {
		a.m.faults.Inc()
		a.deps.Log.Error("the API server does not let CloudCore act as a node: its rights are incomplete, and what edges write waits; apply the impersonation manifests of this release",
			"node", j.node, "key", j.key.String(), "message", ans.status.Message)
		return false
	}
	a.m.forbidden.WithLabelValues(opName(j.write.Op), string(j.key.Kind)).Inc()
	if j.key.Kind != object.Events {
		return false
	}
	if !a.denied.tooLong(j) {
		return false
	}
	a.m.dropped.WithLabelValues("forbidden").Inc()
	a.deps.Log.Warn("an event was refused for too long: it is given up", "node", j.node, "key", j.key.String(), "message", ans.status.Message)
	return true
}

// ownFault says whether a 403 is about CloudCore's right to act as a node, not about the node's rights. kube-apiserver
// answers it before the node's rights are looked at, naming a verb that begins with "impersonate".
func ownFault(s *metav1.Status) bool {
	return s != nil && strings.Contains(s.Message, "cannot impersonate")
}

// versionOf reads the resourceVersion from the body of a 2xx answer; 0 where there is none, as after a deletion.
func (a *Applier) versionOf(j *job, ans answer) uint64 {
	if ans.contentType != protobufType || len(ans.body) == 0 {
		return 0
	}
	o, err := object.Decode(j.kind, ans.body)
	if err != nil {
		return 0
	}
	v, err := object.VersionOf(o)
	if err != nil {
		return 0
	}
	return v.RV
}
