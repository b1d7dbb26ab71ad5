package devices

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/cloud/device"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/common/wire"
)

const statusNode = "edge-status"

// statuses has two CloudCores, with their rights and no others, keep the statuses of one API server.
func (w *world) statuses(t *testing.T) {
	config := w.REST()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + build.Namespace + ":" + build.ServiceAccount}
	var both [2]*device.Controller
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for i := range both {
		api, err := device.NewAPI(config)
		if err != nil {
			t.Fatal(err)
		}
		both[i] = device.New(device.Config{}, device.Deps{API: api, Cache: newSharedCache(t, config), IsEdge: node.IsEdge, Holds: func(string) bool { return true },
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry()})
		running.Go(func() {
			if err := both[i].Start(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	w.edge(t)
	d := w.device(t, "boiler")
	t.Run("a device has one, and a report fills it", func(t *testing.T) { w.filled(t, both, d) })
	t.Run("a full report fits", func(t *testing.T) { w.full(t, both[0], d) })
	t.Run("two CloudCores settle", func(t *testing.T) { w.settled(t, both, d) })
	t.Run("who wrote what is kept only where it tells somebody something", func(t *testing.T) { w.untracked(t, both, d) })
	t.Run("nothing is done to an object of another uid or version", func(t *testing.T) { w.guarded(t, config) })
	t.Run("what is deleted is made again, and goes with its device", func(t *testing.T) { w.deleted(t, d) })
}

// edge makes a Node that is Ready, for as long as the node controller takes to miss its Lease.
func (w *world) edge(t *testing.T) {
	t.Helper()
	nodes := w.Admin.CoreV1().Nodes()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: statusNode}, Spec: corev1.NodeSpec{ProviderID: node.ProviderIDPrefix + statusNode}}
	if _, err := nodes.Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":%q}]}}`, time.Now().Format(time.RFC3339))
	if _, err := nodes.Patch(t.Context(), statusNode, types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// device makes a device of model heat-pump, which the manifests brought, at that node.
func (w *world) device(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	d, err := w.create(t, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1beta1.GroupVersion.String(), "kind": v1beta1.DeviceKind, "metadata": map[string]any{"name": name},
		"spec": map[string]any{"deviceModelRef": map[string]any{"name": "heat-pump"}, "nodeName": statusNode},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// status waits until the status of a device is as ok says.
func (w *world) status(t *testing.T, name, what string, ok func(*v1beta1.DeviceStatus) bool) *v1beta1.DeviceStatus {
	t.Helper()
	var s *v1beta1.DeviceStatus
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		u, err := w.resource(v1beta1.DeviceStatusKind).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil {
			s = &v1beta1.DeviceStatus{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, s); err != nil {
				t.Fatal(err)
			}
			if ok(s) {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after 30 s: %v, %+v", what, err, s)
		}
	}
}

func conditions(s *v1beta1.DeviceStatus) string {
	var said []string
	for _, c := range s.Status.Conditions {
		said = append(said, c.Type+" "+string(c.Status)+" "+c.Reason)
	}
	return strings.Join(said, ", ")
}

func report(t *testing.T, c *device.Controller, d *unstructured.Unstructured, twins []v1beta1.Twin) *wire.Result {
	t.Helper()
	body, err := json.Marshal(device.Report{Twins: twins, State: "ok", Conditions: []metav1.Condition{{Type: v1beta1.ConditionMapperConnected, Status: metav1.ConditionTrue, Reason: "Registered"}}})
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; ; try++ { // as an edge does
		r := c.Report(t.Context(), statusNode, types.NamespacedName{Namespace: namespace, Name: d.GetName()}, string(d.GetUID()), body)
		if r.Final || try == 20 {
			return r
		}
		t.Logf("not final: %v", r)
		time.Sleep(time.Duration(r.RetryAfterMs) * time.Millisecond)
	}
}

func twins(n int, value string) (all []v1beta1.Twin) {
	for i := range n {
		all = append(all, v1beta1.Twin{PropertyName: fmt.Sprintf("property-%d", i), Reported: &v1beta1.TwinProperty{Value: value, Metadata: map[string]string{"timestamp": "1700000000000"}}})
	}
	return all
}

func (w *world) filled(t *testing.T, both [2]*device.Controller, d *unstructured.Unstructured) {
	s := w.status(t, "boiler", "made for the device", func(s *v1beta1.DeviceStatus) bool {
		return conditions(s) == "MapperConnected Unknown AwaitingReport, Ready Unknown AwaitingReport, Reported Unknown AwaitingReport"
	})
	if o := metav1.GetControllerOf(s); o == nil || o.UID != d.GetUID() {
		t.Errorf("it is owned by %v", o)
	}
	for i, c := range both {
		value := fmt.Sprint(i)
		r := report(t, c, d, twins(1, value))
		s := w.status(t, "boiler", "filled", func(s *v1beta1.DeviceStatus) bool {
			return len(s.Status.Twins) == 1 && s.Status.Twins[0].Reported.Value == value && conditions(s) == "MapperConnected True Registered, Ready True Fits"
		})
		if r.Code != http.StatusOK || fmt.Sprint(r.ResourceVersion) != s.ResourceVersion {
			t.Errorf("the answer is %v, the object's version %s", r, s.ResourceVersion)
		}
	}
	key := types.NamespacedName{Namespace: namespace, Name: "boiler"}
	if r := both[0].Report(t.Context(), "edge-other", key, string(d.GetUID()), []byte(`{}`)); r.Code != http.StatusForbidden || !r.Final {
		t.Errorf("another node's report is answered %v", r)
	}
}

func (w *world) full(t *testing.T, c *device.Controller, d *unstructured.Unstructured) {
	if r := report(t, c, d, twins(v1beta1.MaxProperties, strings.Repeat("v", v1beta1.MaxReportedBytes/v1beta1.MaxProperties))); r.Code != http.StatusOK {
		t.Errorf("the answer is %v", r)
	}
	if r := report(t, c, d, twins(1, strings.Repeat("v", v1beta1.MaxReportedBytes+1))); r.Code != http.StatusUnprocessableEntity || !r.Final {
		t.Errorf("too much is answered %v", r)
	}
}

// settled: many changes through either, and then silence.
func (w *world) settled(t *testing.T, both [2]*device.Controller, d *unstructured.Unstructured) {
	for i := range 10 {
		if r := report(t, both[i%2], d, twins(1, fmt.Sprint("s", i))); r.Code != http.StatusOK {
			t.Fatalf("report %d is answered %v", i, r)
		}
	}
	s := w.status(t, "boiler", "the last report", func(s *v1beta1.DeviceStatus) bool {
		return len(s.Status.Twins) == 1 && s.Status.Twins[0].Reported.Value == "s9"
	})
	for i := range 10 { // which both answer from what they know
		if r := report(t, both[i%2], d, twins(1, "s9")); r.Code != http.StatusOK {
			t.Errorf("got %v", r)
		}
	}
	if after := w.status(t, "boiler", "there", func(*v1beta1.DeviceStatus) bool { return true }); after.ResourceVersion != s.ResourceVersion {
		t.Errorf("it was written again, from %s to %s, though nothing changed", s.ResourceVersion, after.ResourceVersion)
	}
}

// untracked: the API server keeps no managedFields of what CloudCore alone wrote, and those of one who applies the object stay.
func (w *world) untracked(t *testing.T, both [2]*device.Controller, d *unstructured.Unstructured) {
	managers := func(value string) (all []string) {
		t.Helper()
		for _, c := range both { // either may have made it
			for i := range 2 { // the first write may be what tells that there are any
				if r := report(t, c, d, twins(1, fmt.Sprint(value, i))); r.Code != http.StatusOK {
					t.Fatalf("a report is answered %v", r)
				}
			}
		}
		for _, f := range w.status(t, "boiler", "there", func(*v1beta1.DeviceStatus) bool { return true }).ManagedFields {
			all = append(all, f.Manager)
		}
		return all
	}
	if all := managers("u"); len(all) > 0 {
		t.Errorf("managedFields name %q", all)
	}
	mine := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1beta1.GroupVersion.String(), "kind": v1beta1.DeviceStatusKind,
		"metadata": map[string]any{"name": "boiler", "labels": map[string]any{"floor": "cellar"}}}}
	if _, err := w.resource(v1beta1.DeviceStatusKind).Apply(t.Context(), "boiler", mine, metav1.ApplyOptions{FieldManager: "operator"}); err != nil {
		t.Fatal(err)
	}
	if all := managers("a"); !slices.Contains(all, "operator") {
		t.Errorf("managedFields name %q, and somebody applied a label", all)
	}
}

func (w *world) guarded(t *testing.T, config *rest.Config) {
	api, err := device.NewAPI(config)
	if err != nil {
		t.Fatal(err)
	}
	s := w.status(t, "boiler", "there", func(*v1beta1.DeviceStatus) bool { return true })
	key := types.NamespacedName{Namespace: namespace, Name: "boiler"}
	if err := api.Delete(t.Context(), key, "other"); !apierrors.IsConflict(err) {
		t.Errorf("a deletion is answered %v", err)
	}
	// An earlier object of the name has an earlier version too, and that is looked at before the uid. A refusal of the uid would be
	// a 422, which ends a report.
	for _, meta := range []string{`{"uid":"other","resourceVersion":"1"}`, fmt.Sprintf(`{"uid":%q,"resourceVersion":"1"}`, s.UID)} {
		if _, err := api.Patch(t.Context(), key, []byte(`{"metadata":`+meta+`,"status":{"state":"x"}}`)); !apierrors.IsConflict(err) {
			t.Errorf("a patch of %s is answered %v", meta, err)
		}
	}
}

func (w *world) deleted(t *testing.T, d *unstructured.Unstructured) {
	statuses := w.resource(v1beta1.DeviceStatusKind)
	was := w.status(t, "boiler", "there", func(*v1beta1.DeviceStatus) bool { return true })
	if err := statuses.Delete(t.Context(), "boiler", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.status(t, "boiler", "made again", func(s *v1beta1.DeviceStatus) bool { return s.UID != was.UID })
	// Another device takes the name before Kubernetes has collected the first one's status.
	if err := w.resource(v1beta1.DeviceKind).Delete(t.Context(), "boiler", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again := w.device(t, "boiler")
	w.status(t, "boiler", "of the other device", func(s *v1beta1.DeviceStatus) bool {
		o := metav1.GetControllerOf(s)
		return o != nil && o.UID == again.GetUID() && o.UID != d.GetUID()
	})
	if err := w.resource(v1beta1.DeviceKind).Delete(t.Context(), "boiler", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := statuses.Get(t.Context(), "boiler", metav1.GetOptions{}); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a minute after its device was deleted the status is still there")
		}
	}
}
