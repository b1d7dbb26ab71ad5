package kubeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// At its site a node can be told to take no more pods; that it takes them again is said in the cloud.
func TestANodeIsCordonedThroughTheCloudAlone(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Nodes, e.node())
	patch := func(body string, dryRun ...string) error {
		_, err := e.client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(body), metav1.PatchOptions{DryRun: dryRun})
		return err
	}
	if err := patch(object.Cordon); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), object.ErrOffline.Error()) {
		t.Errorf("offline: %v, expected 503 with the reason", err)
	}
	cordoned := e.node()
	cordoned.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}
	cordoned.Spec.Unschedulable = true
	e.cloud.set(answering(t, e, http.StatusOK, cordoned))
	before := len(e.cloud.called())
	if err := patch(object.Cordon, metav1.DryRunAll); err != nil || len(e.cloud.called()) != before {
		t.Errorf("a dry run: %v, and the cloud was asked %d times", err, len(e.cloud.called())-before)
	}
	if err := patch(`{"metadata":{"labels":{"rack":"2"}},"spec":{"unschedulable":true}}`); err != nil {
		t.Fatal(err)
	}
	calls := e.cloud.called()[before:]
	if len(calls) != 1 || calls[0].Verb != "patch" || calls[0].Key != e.key(object.Nodes, "", node) || string(calls[0].Body) != object.Cordon ||
		calls[0].ContentType != string(types.MergePatchType) {
		t.Errorf("calls: %+v, expected one with %s", calls, object.Cordon)
	}
	// What else the update says is the node's own as ever.
	if got, err := e.client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{}); err != nil || got.Labels["rack"] != "2" {
		t.Errorf("after it: %v, %v", got.Labels, err)
	}
	e.store.fromCloud(t, object.Nodes, cordoned)
	if err := patch(`{"spec":{"unschedulable":false}}`); !apierrors.IsForbidden(err) || len(e.cloud.called()) != before+1 {
		t.Errorf("uncordon: %v, expected 403 without a call", err)
	}
	if err := patch(object.Cordon); err != nil || len(e.cloud.called()) != before+1 {
		t.Errorf("again: %v, expected no further call", err)
	}
}

// An eviction is the cloud's to decide, and its word that a disruption budget forbids it now is passed on as it is.
func TestAnEvictionIsDecidedInTheCloud(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	evict := func() error {
		return e.client.PolicyV1().Evictions("shop").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}})
	}
	if err := evict(); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "evictions are decided in the cloud") {
		t.Errorf("offline: %v, expected 503 with the reason", err)
	}
	status := metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusTooManyRequests,
		Reason: metav1.StatusReasonTooManyRequests, Message: "Cannot evict pod as it would violate the pod's disruption budget."}
	e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
		b, err := json.Marshal(status)
		return object.Reply{Code: int(status.Code), ContentType: "application/json", Body: b}, err
	})
	if err := evict(); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "disruption budget") {
		t.Errorf("against a budget: %v, expected its 429", err)
	}
	status = metav1.Status{TypeMeta: status.TypeMeta, Status: metav1.StatusSuccess, Code: http.StatusCreated}
	if err := evict(); err != nil {
		t.Errorf("allowed: %v", err)
	}
	call := e.cloud.called()[2]
	if call.Verb != "create" || call.Subresource != "eviction" || call.Key != e.key(object.Pods, "shop", "web") || !strings.Contains(string(call.Body), "Eviction") {
		t.Errorf("call: %+v", call)
	}
}
