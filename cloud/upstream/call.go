package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// callTime is how long a call takes at most, and callWait how much of that it waits for its turn: after ten seconds (edge/kubeapi) nobody waits for
// the answer, and to ask for it all the same would keep those waiting who do.
const (
	callTime = 9500 * time.Millisecond
	callWait = 4 * time.Second
)

// ProviderIDPrefix begins the spec.providerID of every edge Node; the node's name follows. Most cloud controllers
// leave Nodes of other providers alone.
const ProviderIDPrefix = object.ProviderIDPrefix

// gettable are the kinds that a kubelet reads on demand.
var gettable = []object.ID{
	object.Nodes, object.Pods, object.ConfigMaps, object.Secrets, object.Services, object.ServiceAccounts,
	object.PersistentVolumes, object.PersistentVolumeClaims, object.VolumeAttachments, object.CSINodes, object.CSIDrivers,
	object.RuntimeClasses, object.ResourceClaims,
}

// queryKeys are the URL parameters that a call may carry.
var queryKeys = []string{"fieldManager", "fieldValidation", "dryRun"}

// Call makes a request that waits for the API server's answer, in the node's name: the first POST of its Node, that it
// takes no more pods, an eviction, a TokenRequest, a mirror pod, a read, the status of a resized claim. Anything else
// gets 403. It blocks until there is
// an answer, for as long as an edge waits for one at most; without an answer the Reply is 504 or 503.
// It never returns nil.
func (a *Applier) Call(ctx context.Context, node string, c *wire.Call) (r *wire.Reply) {
	key := object.Key{Kind: object.ID(c.GetKind()), Namespace: c.GetNamespace(), Name: c.GetName()}
	defer func() {
		if p := recover(); p != nil {
			a.deps.Log.Error("a call panicked: this is a defect of cloudcore", "node", node, "verb", c.GetVerb(),
				"key", key.String(), "panic", p, "stack", string(debug.Stack()))
			a.m.panics.Inc()
			r = statusReply(http.StatusInternalServerError, metav1.StatusReasonInternalError, "cloudcore failed on this call; see its log")
		}
		r.Id = c.GetId()
		kind := c.GetKind()
		if _, ok := object.Lookup(key.Kind); !ok {
			kind = "unknown"
		}
		a.m.calls.WithLabelValues(verbOf(c.GetVerb()), kind, codeLabel(int(r.Code))).Inc()
	}()
	req, refusal := a.checkCall(node, key, c)
	if refusal != nil {
		return refusal
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	wait, stop := context.WithTimeout(ctx, callWait)
	leave, err := a.calls.enter(wait, node)
	stop()
	if err != nil {
		return statusReply(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "wait for earlier calls to the API server: "+err.Error())
	}
	defer leave()
	mode, err := a.decided(ctx)
	if err != nil {
		return statusReply(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, err.Error())
	}
	req.mode = mode
	ans := a.client.do(ctx, req)
	if ans.err != nil {
		return statusReply(http.StatusGatewayTimeout, metav1.StatusReasonTimeout, ans.err.Error())
	}
	if ans.code == http.StatusForbidden && ownFault(ans.status) {
		a.m.faults.Inc()
		a.deps.Log.Error("the API server does not let CloudCore act as a node: its rights are incomplete; apply the impersonation manifests of this release",
			"node", node, "key", key.String(), "message", ans.status.Message)
		// 403 would tell the kubelet that the node lacks the right, for good.
		return statusReply(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "CloudCore lacks a right: "+ans.status.Message)
	}
	return &wire.Reply{Code: int32(ans.code), ContentType: ans.contentType, Body: ans.body}
}

// checkCall returns the request for a call, or the refusal of one that no kubelet makes.
func (a *Applier) checkCall(node string, key object.Key, c *wire.Call) (request, *wire.Reply) {
	bad := func(err error) (request, *wire.Reply) {
		a.m.malformed.Inc()
		return request{}, statusReply(http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	kind, ok := object.Lookup(key.Kind)
	verb, name := "", key.Name
	switch call := c.GetVerb() + " " + string(key.Kind) + "/" + c.GetSubresource(); {
	case !ok, node == "":
	case call == "create nodes/" && (key.Name == "" || key.Name == node), call == "create pods/":
		verb, name = http.MethodPost, ""
	case (call == "create serviceaccounts/token" || call == "create pods/eviction") && key.Name != "":
		verb = http.MethodPost
	case call == "patch nodes/" && key.Name == node && c.GetContentType() == mergePatchType && string(c.GetBody()) == object.Cordon:
		verb = http.MethodPatch
	case call == "patch persistentvolumeclaims/status":
		verb = http.MethodPatch
	case call == "update persistentvolumeclaims/status":
		verb = http.MethodPut
	case c.GetVerb() == "get" && c.GetSubresource() == "" && slices.Contains(gettable, key.Kind):
		verb = http.MethodGet
	}
	if verb == "" {
		return request{}, statusReply(http.StatusForbidden, metav1.StatusReasonForbidden,
			fmt.Sprintf("node %q: the link does not carry %q of %s, subresource %q", node, c.GetVerb(), key, c.GetSubresource()))
	}
	if err := checkSegments(key); err != nil {
		return bad(err)
	}
	if kind.Namespaced != (key.Namespace != "") || (name == "" && verb != http.MethodPost) || len(c.Body) > wire.MaxBody {
		return bad(fmt.Errorf("%s of %s: expected a name, a namespace for namespaced kinds only and a body of at most %d bytes", c.Verb, key, wire.MaxBody))
	}
	query, err := url.ParseQuery(c.Query)
	if err != nil {
		return bad(fmt.Errorf("query %q: %w", c.Query, err))
	}
	for k := range query {
		if !slices.Contains(queryKeys, k) {
			return bad(fmt.Errorf("query parameter %q: expected one of %v", k, queryKeys))
		}
	}
	req := request{
		verb: verb, kind: kind, namespace: key.Namespace, name: name, subresource: c.Subresource, query: query,
		contentType: c.ContentType, accept: acceptFor(c.ContentType), body: c.Body, as: node,
	}
	if key.Kind == object.Nodes && verb == http.MethodPost {
		if req.body, err = ownNode(node, c); err != nil {
			return bad(err)
		}
		req.contentType = protobufType
	}
	return req, nil
}

// ownNode returns the body of a Node's first POST with the providerID of an edge in it.
func ownNode(node string, c *wire.Call) ([]byte, error) {
	if c.ContentType != jsonType {
		return nil, fmt.Errorf("content type %q of a Node: expected %s", c.ContentType, jsonType)
	}
	if err := object.Vet(c.Body); err != nil {
		return nil, fmt.Errorf("decode Node: %w", err)
	}
	n := &corev1.Node{}
	if err := json.Unmarshal(c.Body, n); err != nil {
		return nil, fmt.Errorf("decode Node: %w", err)
	}
	if n.Name != node {
		return nil, fmt.Errorf("the body is Node %q; node %q creates its own only", n.Name, node)
	}
	n.Spec.ProviderID = ProviderIDPrefix + node
	// CloudCore's own words, and what it shows in the place of the kubelet's address, are not the edge's to say: its first status
	// brings both, by the way of every other.
	own := func(key, _ string) bool { return strings.HasPrefix(key, object.OwnKeys) }
	maps.DeleteFunc(n.Labels, own)
	maps.DeleteFunc(n.Annotations, own)
	n.Status.Addresses, n.Status.DaemonEndpoints = nil, corev1.NodeDaemonEndpoints{}
	kind, _ := object.Lookup(object.Nodes)
	return object.Encode(kind, n)
}

// acceptFor asks for the answer in the form of the request. Patches are JSON in any case.
func acceptFor(contentType string) string {
	switch contentType {
	case jsonType, strategicPatchType, mergePatchType, string(types.JSONPatchType):
		return jsonType
	}
	return protobufType
}

func statusReply(code int, reason metav1.StatusReason, message string) *wire.Reply {
	body, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
	if err != nil {
		body = nil // a Status of strings always encodes; the code says enough
	}
	return &wire.Reply{Code: int32(code), ContentType: jsonType, Body: body}
}

// verbOf bounds the label of a metric.
func verbOf(verb string) string {
	if slices.Contains([]string{"get", "create", "update", "patch", "delete"}, verb) {
		return verb
	}
	return "unknown"
}
