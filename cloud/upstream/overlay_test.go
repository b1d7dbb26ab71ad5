package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"pgregory.net/rapid"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func value(t testing.TB, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestAnOverlayThatChangesNothingCostsNoRequest(t *testing.T) {
	p := boundPod("u1", "5")
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	a, s, _ := newApplier(t, objects{podKey: p}, func(r *http.Request) (*http.Response, error) {
		return refuse(403, metav1.StatusReasonForbidden, "not yours"), nil
	})
	r := a.Apply(background(t), "n1", overlayWrite(t, "u1"))
	if !r.Final || r.Code != 200 || r.ResourceVersion != 5 || len(s.requests()) != 0 {
		t.Errorf("got %v after %d requests, expected a final 200 of version 5 without any", r, len(s.requests()))
	}
	// Another node would learn the pod's status that way.
	if r := a.Apply(background(t), "n2", overlayWrite(t, "u1")); r.Code != 403 || r.Final {
		t.Errorf("the overlay of a foreign pod got %v, expected the API server's 403", r)
	}
}

// The second of two writes in a row is computed from the first, though the cache is behind.
func TestAWriteSeesTheOneBeforeIt(t *testing.T) {
	ready := boundPod("u1", "5")
	ready.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	a, s, _ := newApplier(t, objects{podKey: ready}, func(r *http.Request) (*http.Response, error) {
		after := boundPod("u1", "6")
		after.Status.Phase = corev1.PodRunning
		return accept(t, object.Pods, after), nil
	})
	down := overlayWrite(t, "u1")
	down.Body, _ = object.EncodeOverlay(&object.Overlay{Pod: &corev1.PodStatus{Phase: corev1.PodRunning}, Conditions: []string{"Ready"}})
	a.Apply(background(t), "n1", down)
	a.Apply(background(t), "n1", overlayWrite(t, "u1")) // ready again, as the cache still says
	got := s.requests()
	if len(got) != 2 {
		t.Fatalf("%d requests, expected 2: the second write was taken for no change, or cost a conflict", len(got))
	}
	body, _ := io.ReadAll(got[1].Body)
	var p struct{ Metadata metav1.ObjectMeta }
	if err := json.Unmarshal(body, &p); err != nil || p.Metadata.ResourceVersion != "6" || p.Metadata.UID != "u1" {
		t.Errorf("the second patch is %s, expected one of version 6 and uid u1", body)
	}
}

func TestPatchesGiveWhatIsWanted(t *testing.T) {
	types := []string{"Ready", "MemoryPressure", "Custom", "Other"}
	condition := rapid.Custom(func(t *rapid.T) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeConditionType(rapid.SampledFrom(types).Draw(t, "type")), Status: corev1.ConditionStatus(rapid.SampledFrom([]string{"True", "False"}).Draw(t, "status"))}
	})
	address := rapid.Custom(func(t *rapid.T) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeAddressType(rapid.SampledFrom([]string{"InternalIP", "Hostname"}).Draw(t, "type")), Address: rapid.SampledFrom([]string{"10.0.0.1", "fd00::1", "x"}).Draw(t, "address")}
	})
	words := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.SampledFrom([]string{"1", "2"}))
	node := rapid.Custom(func(t *rapid.T) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u", ResourceVersion: "3", Labels: words.Draw(t, "labels"), Annotations: words.Draw(t, "annotations")}}
		n.Status.Conditions = rapid.SliceOfNDistinct(condition, 0, 4, func(c corev1.NodeCondition) string { return string(c.Type) }).Draw(t, "conditions")
		n.Status.Addresses = rapid.SliceOfN(address, 0, 3).Draw(t, "addresses") // two of one type, as on dual-stack machines
		if rapid.Bool().Draw(t, "capacity") {
			n.Status.Capacity = corev1.ResourceList{"cpu": resource.MustParse(rapid.SampledFrom([]string{"1", "1500m"}).Draw(t, "cpu"))}
		}
		return n
	})
	rapid.Check(t, func(t *rapid.T) {
		from, to := node.Draw(t, "from"), node.Draw(t, "to")
		p, err := makePatch(from, to)
		if err != nil {
			t.Fatal(err)
		}
		got, err := applyPatch(from, p)
		if err != nil {
			t.Fatalf("%s: %v", p.body, err)
		}
		if !apiequality.Semantic.DeepEqual(got.Status, to.Status) || !apiequality.Semantic.DeepEqual(got.Labels, to.Labels) || !apiequality.Semantic.DeepEqual(got.Annotations, to.Annotations) {
			t.Fatalf("%s %s gives\n%s", p.contentType, p.body, cmp.Diff(to, got))
		}
	})
}

// applyPatch does what an API server does with a patch.
func applyPatch(n *corev1.Node, p patch) (*corev1.Node, error) {
	doc, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	if p.contentType == strategicPatchType {
		doc, err = strategicpatch.StrategicMergePatch(doc, p.body, corev1.Node{})
	} else {
		var a, b map[string]any
		if err := json.Unmarshal(doc, &a); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(p.body, &b); err != nil {
			return nil, err
		}
		doc, err = json.Marshal(rfc7386(a, b))
	}
	if err != nil {
		return nil, err
	}
	out := &corev1.Node{}
	return out, json.Unmarshal(doc, out)
}

func rfc7386(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(t, k)
		} else {
			t[k] = rfc7386(t[k], v)
		}
	}
	return t
}

func TestMalformedWritesAreFinalAndSayWhy(t *testing.T) {
	for name, w := range map[string]*wire.Write{
		"unknown kind":           {Kind: "widgets", Name: "a", Op: wire.Op_OP_DELETE, Uid: "u"},
		"a Namespace":            {Kind: "namespaces", Name: "a", Op: wire.Op_OP_DELETE, Uid: "u"},
		"no name":                {Kind: "pods", Namespace: "a", Op: wire.Op_OP_DELETE, Uid: "u"},
		"no namespace":           {Kind: "pods", Name: "a", Op: wire.Op_OP_DELETE, Uid: "u"},
		"namespace too many":     {Kind: "nodes", Namespace: "a", Name: "n1", Op: wire.Op_OP_OVERLAY, Body: []byte(`{"node":{}}`)},
		"dots for a name":        {Kind: "pods", Namespace: "a", Name: "..", Op: wire.Op_OP_DELETE, Uid: "u"},
		"percent in a name":      {Kind: "pods", Namespace: "a", Name: "b%2fstatus", Op: wire.Op_OP_DELETE, Uid: "u"},
		"unknown operation":      {Kind: "pods", Namespace: "a", Name: "b", Op: 99},
		"unknown compression":    {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Uid: "u", Compression: 9},
		"damaged compression":    {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Uid: "u", Body: []byte("zzz"), Compression: wire.Compression_COMPRESSION_ZSTD},
		"overlay is not JSON":    {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Uid: "u", Body: []byte("{")},
		"overlay of a Node":      {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Uid: "u", Body: []byte(`{"node":{}}`)},
		"pod overlay, no uid":    {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Body: []byte(`{"pod":{}}`)},
		"overlay of a ConfigMap": {Kind: "configmaps", Namespace: "a", Name: "b", Op: wire.Op_OP_OVERLAY, Uid: "u", Body: []byte(`{"pod":{}}`)},
		"deletion of a Node":     {Kind: "nodes", Name: "n1", Op: wire.Op_OP_DELETE, Uid: "u"},
		"deletion, no uid":       {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_DELETE},
		"creation of a Pod":      {Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_CREATE},
		"event of another name":  {Kind: "events", Namespace: "shop", Name: "b", Op: wire.Op_OP_CREATE, Body: eventWrite(t, nil).Body},
		"event, foreign object":  eventWrite(t, func(e *corev1.Event) { e.InvolvedObject.Namespace = "kube-system" }),
		"put of another CSINode": {Kind: "csinodes.storage.k8s.io", Name: "n2", Op: wire.Op_OP_PUT},
		"status of another Node": {Kind: "nodes", Name: "n2", Op: wire.Op_OP_OVERLAY, Body: []byte(`{"node":{}}`)},
		"put of a Node":          {Kind: "nodes", Name: "n1", Op: wire.Op_OP_PUT},
	} {
		t.Run(name, func(t *testing.T) {
			a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return nil, io.EOF })
			r := a.Apply(background(t), "n1", w)
			if !r.Final || r.Code != 400 || r.Message == "" || len(s.requests()) != 0 || value(t, a.m.malformed) != 1 {
				t.Errorf("got %v after %d requests, counted %v; expected a final 400 that says why, no request, counted once", r, len(s.requests()), value(t, a.m.malformed))
			}
		})
	}
}

// What CloudCore notes on a Node is not the node's own to change, and a Node is shown as the presenter wants it, or as the
// kubelet reported it where that fails.
func TestANodeDoesNotWriteWhatCloudCoreNotesOnIt(t *testing.T) {
	for _, fails := range []bool{false, true} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", ResourceVersion: "5", Annotations: map[string]string{"tether.io/kubelet-port": "20000"}}}
		var sent string
		a, _, _ := newApplier(t, objects{{Kind: object.Nodes, Name: "n1"}: n}, func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			sent = string(b)
			return accept(t, object.Nodes, n), err
		})
		a.deps.Present = func(node string, o *object.Overlay) error {
			if fails || node != "n1" {
				return errors.New("no port")
			}
			o.Annotations["tether.io/addresses"] = new("real")
			return nil
		}
		body, err := object.EncodeOverlay(&object.Overlay{Node: &corev1.NodeStatus{Phase: corev1.NodeRunning},
			Labels: map[string]*string{"tether.io/edge": new("x"), "zone": new("north")}, Annotations: map[string]*string{"tether.io/kubelet-port": new("20001"), "tether.io/autonomy-until": new("unbounded"), "mine": new("too")}})
		if err != nil {
			t.Fatal(err)
		}
		if r := a.Apply(background(t), "n1", &wire.Write{Id: 1, Kind: "nodes", Name: "n1", Op: wire.Op_OP_OVERLAY, Uid: "u1", Body: body}); r.Code != 200 {
			t.Fatalf("got %v", r)
		}
		if strings.Contains(sent, "kubelet-port") || strings.Contains(sent, "tether.io/edge") || !strings.Contains(sent, "mine") || !strings.Contains(sent, `"tether.io/autonomy-until":"unbounded"`) || !strings.Contains(sent, "north") || strings.Contains(sent, "tether.io/addresses") == fails {
			t.Errorf("the presenter fails: %v; sent %s", fails, sent)
		}
	}
}

// NodeRestriction knows pods from a watch of its own: one that it has not seen yet is "not found", which must not end the
// deletion of a pod that is there.
func TestAPodThatAdmissionHasNotSeenIsDeletedAllTheSame(t *testing.T) {
	for _, seenAt := range []int{2, 1000} {
		p := boundPod("u1", "5")
		deletes := 0
		a, _, _ := newApplier(t, objects{}, func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return accept(t, object.Pods, p), nil
			}
			if deletes++; deletes < seenAt {
				return refuse(404, metav1.StatusReasonNotFound, "pod not found"), nil
			}
			return accept(t, object.Pods, p), nil
		})
		r := a.Apply(background(t), "n1", &wire.Write{Id: 1, Kind: "pods", Namespace: p.Namespace, Name: p.Name, Op: wire.Op_OP_DELETE, Uid: "u1"})
		if done := seenAt == 2; r.Final != done || done && r.Code != 200 {
			t.Errorf("seen at the %dth try: got %v after %d tries", seenAt, r, deletes)
		}
	}
}

func TestEventsOfAForeignSourceAreDropped(t *testing.T) {
	for name, change := range map[string]func(*corev1.Event){
		"host":     func(e *corev1.Event) { e.Source.Host = "n2" },
		"no host":  func(e *corev1.Event) { e.Source.Host = "" },
		"instance": func(e *corev1.Event) { e.ReportingInstance = "n2" },
	} {
		t.Run(name, func(t *testing.T) {
			a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return respond(201, protobufType, nil), nil })
			r := a.Apply(background(t), "n1", eventWrite(t, change))
			if !r.Final || r.Code != 403 || len(s.requests()) != 0 || value(t, a.m.dropped.WithLabelValues("foreign source")) != 1 {
				t.Errorf("got %v after %d requests, expected a final 403, counted, without any", r, len(s.requests()))
			}
		})
	}
}

func FuzzApplySurvivesAnyWrite(f *testing.F) {
	f.Add("pods", "shop", "till", int32(1), "u1", []byte(`{"pod":{"phase":"Running"},"conditions":["Ready"]}`), int32(0))
	f.Add("nodes", "", "n1", int32(1), "", []byte(`{"node":{},"labels":{"a":null}}`), int32(0))
	f.Add("events", "shop", "till.1", int32(3), "", eventWrite(f, nil).Body, int32(0))
	f.Add("csinodes.storage.k8s.io", "", "n1", int32(4), "", []byte("k8s\x00"), int32(1))
	a, _, _ := newApplier(f, objects{podKey: boundPod("u1", "5")}, func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodGet {
			return refuse(404, metav1.StatusReasonNotFound, "gone"), nil
		}
		return refuse(422, metav1.StatusReasonInvalid, "no"), nil
	})
	f.Fuzz(func(t *testing.T, kind, namespace, name string, op int32, uid string, body []byte, compression int32) {
		r := a.Apply(background(t), "n1", &wire.Write{Id: 3, Kind: kind, Namespace: namespace, Name: name, Op: wire.Op(op), Uid: uid, Body: body, Compression: wire.Compression(compression)})
		if r.Id != 3 || r.Code == 500 || r.Code == 0 {
			t.Errorf("got %v", r)
		}
	})
}

func TestCallsThatNoKubeletMakesAreRefused(t *testing.T) {
	for _, c := range []struct {
		call *wire.Call
		code int32
	}{
		{&wire.Call{Verb: "list", Kind: "secrets", Namespace: "a"}, 403},
		{&wire.Call{Verb: "get", Kind: "widgets", Name: "a"}, 403},
		{&wire.Call{Verb: "get", Kind: "leases.coordination.k8s.io", Namespace: "a", Name: "b"}, 403},
		{&wire.Call{Verb: "delete", Kind: "nodes", Name: "n1"}, 403},
		{&wire.Call{Verb: "create", Kind: "nodes", Name: "n2"}, 403},
		{&wire.Call{Verb: "create", Kind: "nodes", ContentType: jsonType, Body: []byte(`{"metadata":{"name":"n2"}}`)}, 400},
		{&wire.Call{Verb: "create", Kind: "nodes", ContentType: jsonType, Body: []byte(`{`)}, 400},
		{&wire.Call{Verb: "create", Kind: "pods", Namespace: "a", Subresource: "eviction"}, 403},
		{&wire.Call{Verb: "create", Kind: "pods", Namespace: "a", Subresource: "binding", Name: "b"}, 403},
		{&wire.Call{Verb: "patch", Kind: "nodes", Name: "n2", ContentType: mergePatchType, Body: []byte(object.Cordon)}, 403},
		{&wire.Call{Verb: "patch", Kind: "nodes", Name: "n1", ContentType: strategicPatchType, Body: []byte(object.Cordon)}, 403},
		{&wire.Call{Verb: "patch", Kind: "nodes", Name: "n1", ContentType: mergePatchType, Body: []byte(`{"spec":{"unschedulable":false}}`)}, 403},
		{&wire.Call{Verb: "patch", Kind: "nodes", Name: "n1", Subresource: "status", ContentType: mergePatchType, Body: []byte(object.Cordon)}, 403},
		{&wire.Call{Verb: "get", Kind: "pods", Namespace: "a", Name: ".."}, 400},
		{&wire.Call{Verb: "get", Kind: "pods", Namespace: "a"}, 400},
		{&wire.Call{Verb: "get", Kind: "pods", Namespace: "a", Name: "b", Query: "watch=1"}, 400},
		{&wire.Call{Verb: "get", Kind: "pods", Namespace: "a", Name: "b", Query: "%zz"}, 400},
	} {
		a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return respond(200, protobufType, nil), nil })
		r := a.Call(background(t), "n1", c.call)
		var status metav1.Status
		if err := json.Unmarshal(r.Body, &status); err != nil || status.Message == "" {
			t.Errorf("%v: the body %q is no Status that says why", c.call, r.Body)
		}
		if r.Code != c.code || len(s.requests()) != 0 {
			t.Errorf("%v: got %d after %d requests, expected %d without any", c.call, r.Code, len(s.requests()), c.code)
		}
	}
}

// TestANodeIsCreatedWithWhatAnEdgeMaySay: with its providerID, and nothing of what is CloudCore's to say.
func TestANodeIsCreatedWithWhatAnEdgeMaySay(t *testing.T) {
	for _, sent := range []string{"", "aws:///i-1"} {
		a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return respond(201, protobufType, nil), nil })
		body := fmt.Appendf(nil, `{"metadata":{"name":"n1","labels":{"a":"b","tether.io/edge":"x"},"annotations":{"c":"d","tether.io/kubelet-port":"20007"}},"spec":{"providerID":%q},`+
			`"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":6443}}}}`, sent)
		if r := a.Call(background(t), "n1", &wire.Call{Verb: "create", Kind: "nodes", Name: "n1", ContentType: jsonType, Body: body}); r.Code != 201 {
			t.Fatalf("got %d %s", r.Code, r.Body)
		}
		raw, _ := io.ReadAll(s.requests()[0].Body)
		k, _ := object.Lookup(object.Nodes)
		o, err := object.Decode(k, raw)
		if err != nil {
			t.Fatal(err)
		}
		n := o.(*corev1.Node)
		if got := n.Spec.ProviderID; got != "tether://n1" {
			t.Errorf("providerID %q became %q, expected tether://n1", sent, got)
		}
		if !maps.Equal(n.Labels, map[string]string{"a": "b"}) || !maps.Equal(n.Annotations, map[string]string{"c": "d"}) {
			t.Errorf("labels %v and annotations %v, expected those without tether.io", n.Labels, n.Annotations)
		}
		if len(n.Status.Addresses) > 0 || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 0 {
			t.Errorf("the edge says where its kubelet is asked: %+v", n.Status)
		}
	}
}
