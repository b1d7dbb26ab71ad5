package upstream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/cloud/upstream"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// frozen is a cache that is behind: it keeps what it is given.
type frozen map[object.Key]object.Object

func (f frozen) Object(k object.Key) (object.Object, bool) {
	o, ok := f[k]
	if !ok {
		return nil, false
	}
	return o.DeepCopyObject().(object.Object), true
}

func applier(t *testing.T, namespace string, mode upstream.Impersonation, cache frozen) *upstream.Applier {
	t.Helper()
	c, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	a, err := upstream.New(upstream.Config{Impersonation: mode}, upstream.Deps{
		RESTConfig: cloudcore(t, namespace), Objects: cache, Compressor: c,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// A site is a namespace, two edge nodes and a pod on each, with names of their own for each test.
type site struct {
	t          *testing.T
	a          *upstream.Applier
	ns, n1, n2 string
}

var sites atomic.Int64

func newSite(t *testing.T, a *upstream.Applier) *site {
	t.Helper()
	id := sites.Add(1)
	s := &site{t: t, a: a, ns: fmt.Sprintf("site-%d", id), n1: fmt.Sprintf("edge-%d-a", id), n2: fmt.Sprintf("edge-%d-b", id)}
	if _, err := shared.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{s.n1, s.n2} {
		body := fmt.Appendf(nil, `{"metadata":{"name":%q,"labels":{"kubernetes.io/hostname":%q}}}`, n, n)
		r := a.Call(t.Context(), n, &wire.Call{Verb: "create", Kind: "nodes", Name: n, ContentType: "application/json", Body: body})
		if r.Code != 201 {
			t.Fatalf("node %s cannot create its Node: %d %s", n, r.Code, r.Body)
		}
	}
	return s
}

func (s *site) pod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	s.t.Helper()
	no := false
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
		Spec: corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: &no, ServiceAccountName: "default",
			Containers: []corev1.Container{{Name: "main", Image: "demo"}}},
	}
	if change != nil {
		change(p)
	}
	var made *corev1.Pod
	eventually(s.t, 20*time.Second, func() (string, bool) { // the namespace's service account comes a moment later
		var err error
		made, err = shared.client.CoreV1().Pods(s.ns).Create(s.t.Context(), p, metav1.CreateOptions{})
		return fmt.Sprint(err), err == nil
	})
	return made
}

func (s *site) get(name string) *corev1.Pod {
	s.t.Helper()
	p, err := shared.client.CoreV1().Pods(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// apply sends a write until its result is final, as an edge does: the authorizer's graph may be a moment behind.
func (s *site) apply(node string, w *wire.Write) *wire.Result {
	s.t.Helper()
	var r *wire.Result
	eventually(s.t, 20*time.Second, func() (string, bool) {
		r = s.a.Apply(s.t.Context(), node, w)
		return r.String(), r.Final
	})
	return r
}

func (s *site) running(p *corev1.Pod) *wire.Write {
	s.t.Helper()
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	return s.status(p, &object.Overlay{
		Pod: &corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.1.0.5", PodIPs: []corev1.PodIP{{IP: "10.1.0.5"}}, StartTime: &now,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "main", Ready: true, Image: "demo", ImageID: "x", ContainerID: "c://1",
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}},
		},
		Conditions: []string{"Ready"},
	})
}

func (s *site) status(p *corev1.Pod, o *object.Overlay) *wire.Write {
	s.t.Helper()
	body, err := object.EncodeOverlay(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return &wire.Write{Id: 1, Kind: "pods", Namespace: p.Namespace, Name: p.Name, Op: wire.Op_OP_OVERLAY, Uid: string(p.UID), Body: body}
}

func encode(t *testing.T, id object.ID, o object.Object) []byte {
	t.Helper()
	k, _ := object.Lookup(id)
	b, err := object.Encode(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProbeSaysWhichRightsAreMissing(t *testing.T) {
	a := applier(t, "tether-none", upstream.Auto, nil)
	err := a.Probe(t.Context())
	if err == nil {
		t.Fatal("CloudCore without rights found that it may act as a node")
	}
	for _, want := range []string{"impersonate:arbitrary-node nodes.authentication.k8s.io", "impersonate-on:arbitrary-node:patch pods/status", "build/manifests"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q:\n%v", want, err)
		}
	}
	if r := a.Apply(t.Context(), "edge", &wire.Write{Kind: "pods", Namespace: "a", Name: "b", Op: wire.Op_OP_DELETE, Uid: "u"}); r.Final {
		t.Errorf("a write without a way to make it was taken for done: %v", r)
	}
}

func TestAutoTakesTheNarrowWayWhereItWorks(t *testing.T) {
	for namespace, want := range map[string]string{build.Namespace: "constrained", "tether-legacy": "legacy"} {
		var log bytes.Buffer
		c, err := wire.NewCompressor()
		if err != nil {
			t.Fatal(err)
		}
		a, err := upstream.New(upstream.Config{}, upstream.Deps{RESTConfig: cloudcore(t, namespace), Objects: frozen{}, Compressor: c,
			Log: slog.New(slog.NewTextHandler(&log, nil)), Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "impersonation="+want) {
			t.Errorf("%s: log %q, expected impersonation=%s", namespace, log.String(), want)
		}
	}
}

// Both ways to act as a node give the node its own objects and no others (I6).
func TestANodeWritesItsOwnObjectsOnly(t *testing.T) {
	for _, way := range []struct {
		mode      upstream.Impersonation
		namespace string
	}{{upstream.Constrained, build.Namespace}, {upstream.Legacy, "tether-legacy"}} {
		t.Run(string(way.mode), func(t *testing.T) {
			a := applier(t, way.namespace, way.mode, frozen{})
			if err := a.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := newSite(t, a)
			mine, foreign := s.pod("mine", s.n1, nil), s.pod("foreign", s.n2, nil)

			if r := s.apply(s.n1, s.running(mine)); r.Code != 200 || r.ResourceVersion == 0 {
				t.Errorf("the status of the node's own pod got %v", r)
			}
			if got := s.get("mine").Status; got.Phase != corev1.PodRunning || !got.ContainerStatuses[0].Ready {
				t.Errorf("the pod's status is %v, expected Running", got)
			}
			if r := a.Apply(t.Context(), s.n1, s.running(foreign)); r.Code != 403 || r.Final {
				t.Errorf("the status of another node's pod got %v, expected 403", r)
			}
			if r := a.Apply(t.Context(), s.n1, &wire.Write{Kind: "pods", Namespace: s.ns, Name: "foreign", Op: wire.Op_OP_DELETE, Uid: string(foreign.UID)}); r.Code != 403 || r.Final {
				t.Errorf("the deletion of another node's pod got %v, expected 403", r)
			}
			other := s.nodeOverlay(s.n2, nil)
			if r := a.Apply(t.Context(), s.n1, other); r.Code != 400 || !r.Final {
				t.Errorf("the status of another Node got %v, expected a final 400", r)
			}
			if got := s.get("foreign").Status.Phase; got != corev1.PodPending {
				t.Errorf("the foreign pod's phase became %s", got)
			}
			s.secrets()
		})
	}
}

// secrets shows that a node reads the Secrets of its own pods only.
func (s *site) secrets() {
	s.t.Helper()
	for _, name := range []string{"own", "other"} {
		if _, err := shared.client.CoreV1().Secrets(s.ns).Create(s.t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.pod("reader", s.n1, func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "own"}}}}
	})
	get := func(name string) *wire.Reply {
		return s.a.Call(s.t.Context(), s.n1, &wire.Call{Verb: "get", Kind: "secrets", Namespace: s.ns, Name: name})
	}
	eventually(s.t, 20*time.Second, func() (string, bool) { r := get("own"); return fmt.Sprint(r.Code), r.Code == 200 })
	if r := get("other"); r.Code != 403 {
		s.t.Errorf("a Secret that no pod of the node uses: %d, expected 403", r.Code)
	}
}

func (s *site) nodeOverlay(node string, change func(*object.Overlay)) *wire.Write {
	s.t.Helper()
	o := &object.Overlay{
		Node:       &corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}},
		Conditions: []string{"Ready"},
	}
	if change != nil {
		change(o)
	}
	body, err := object.EncodeOverlay(o)
	if err != nil {
		s.t.Fatal(err)
	}
	return &wire.Write{Id: 2, Kind: "nodes", Name: node, Op: wire.Op_OP_OVERLAY, Body: body}
}

func constrained(t *testing.T, cache frozen) *site {
	t.Helper()
	return newSite(t, applier(t, build.Namespace, upstream.Constrained, cache))
}

func TestANodeRegistersAndWritesItsStatusLabelsAndAddresses(t *testing.T) {
	s := constrained(t, frozen{})
	n, err := shared.client.CoreV1().Nodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n.Spec.ProviderID != "tether://"+s.n1 {
		t.Errorf("providerID %q", n.Spec.ProviderID)
	}
	os, role := "linux", ""
	w := s.nodeOverlay(s.n1, func(o *object.Overlay) {
		o.Labels = map[string]*string{"kubernetes.io/os": &os, "kubernetes.io/hostname": nil}
		o.Annotations = map[string]*string{"volumes.kubernetes.io/controller-managed-attach-detach": &os}
		// Two addresses of one type cannot be told apart by a strategic merge.
		o.Node.Addresses = []corev1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.9"}, {Type: "InternalIP", Address: "fd00::9"}, {Type: "Hostname", Address: s.n1}}
	})
	if r := s.apply(s.n1, w); r.Code != 200 {
		t.Fatalf("got %v", r)
	}
	n, err = shared.client.CoreV1().Nodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, there := n.Labels["kubernetes.io/hostname"]; there || n.Labels["kubernetes.io/os"] != "linux" || n.Annotations["volumes.kubernetes.io/controller-managed-attach-detach"] != "linux" {
		t.Errorf("labels %v, annotations %v", n.Labels, n.Annotations)
	}
	if len(n.Status.Addresses) != 3 {
		t.Errorf("addresses %v, expected three", n.Status.Addresses)
	}
	bad := s.nodeOverlay(s.n1, func(o *object.Overlay) { o.Labels = map[string]*string{"node-role.kubernetes.io/master": &role} })
	if r := s.a.Apply(t.Context(), s.n1, bad); r.Code != 403 || r.Final {
		t.Errorf("a role label from a kubelet got %v, expected 403", r)
	}
	if r := s.a.Apply(t.Context(), "nobody", s.nodeOverlay("nobody", nil)); r.Code != 404 || !r.Final {
		t.Errorf("the status of a Node that is gone got %v, expected a final 404", r)
	}
}

// A role draws pods, and a label of node-restriction may draw Secrets: neither is the node's to set, in no way that the
// link has.
func TestANodeGivesItselfNoRole(t *testing.T) {
	s := constrained(t, frozen{})
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/tier", "kubernetes.io/made-up"} {
		value := ""
		w := s.nodeOverlay(s.n1, func(o *object.Overlay) { o.Labels = map[string]*string{label: &value} })
		if r := s.a.Apply(t.Context(), s.n1, w); r.Code != 403 || r.Final {
			t.Errorf("label %s in an overlay got %v, expected 403", label, r)
		}
		fresh := fmt.Sprintf("%s-%d", s.n1, len(label))
		body := fmt.Appendf(nil, `{"metadata":{"name":%q,"labels":{%q:""}}}`, fresh, label)
		if r := s.a.Call(t.Context(), fresh, &wire.Call{Verb: "create", Kind: "nodes", Name: fresh, ContentType: "application/json", Body: body}); r.Code != 403 {
			t.Errorf("label %s at the registration got %d %s, expected 403", label, r.Code, r.Body)
		}
		body = fmt.Appendf(nil, `{"metadata":{"labels":{%q:""}}}`, label)
		if r := s.a.Call(t.Context(), s.n1, &wire.Call{Verb: "patch", Kind: "nodes", Name: s.n1, ContentType: "application/merge-patch+json", Body: body}); r.Code != 403 {
			t.Errorf("label %s by a patch got %d %s, expected 403", label, r.Code, r.Body)
		}
	}
	n, err := shared.client.CoreV1().Nodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for label := range n.Labels {
		if strings.Contains(label, "role") || strings.Contains(label, "restriction") {
			t.Errorf("the node has label %s", label)
		}
	}
}

// What the cloud wrote meanwhile stays, though the cache is behind.
func TestAnOverlayKeepsWhatTheCloudWroteMeanwhile(t *testing.T) {
	cache := frozen{}
	s := constrained(t, cache)
	p := s.pod("p", s.n1, nil)
	cache[object.Key{Kind: object.Pods, Namespace: s.ns, Name: "p"}] = p
	changed := p.DeepCopy()
	changed.Status.Conditions = append(changed.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue})
	if _, err := shared.client.CoreV1().Pods(s.ns).UpdateStatus(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := s.apply(s.n1, s.running(p)); r.Code != 200 {
		t.Fatalf("got %v", r)
	}
	types := map[corev1.PodConditionType]bool{}
	for _, c := range s.get("p").Status.Conditions {
		types[c.Type] = true
	}
	if !types["example.com/gate"] || !types["Ready"] {
		t.Errorf("conditions %v, expected the controller's and the kubelet's", types)
	}
}

func TestAPodThatIsGoneOrAnotherEndsTheWrite(t *testing.T) {
	cache := frozen{}
	s := constrained(t, cache)
	old := s.pod("p", s.n1, nil)
	if r := s.apply(s.n1, s.running(old)); r.Code != 200 {
		t.Fatalf("got %v", r)
	}
	wrong := &wire.Write{Kind: "pods", Namespace: s.ns, Name: "p", Op: wire.Op_OP_DELETE, Uid: "another"}
	if r := s.apply(s.n1, wrong); r.Code != 409 {
		t.Errorf("a deletion for another uid got %v, expected a final 409", r)
	}
	right := &wire.Write{Kind: "pods", Namespace: s.ns, Name: "p", Op: wire.Op_OP_DELETE, Uid: string(old.UID)}
	if r := s.apply(s.n1, right); r.Code != 200 {
		t.Errorf("the deletion got %v", r)
	}
	if r := s.apply(s.n1, right); r.Code != 404 {
		t.Errorf("the deletion, sent again, got %v, expected a final 404", r)
	}
	if r := s.apply(s.n1, s.running(old)); r.Code != 404 {
		t.Errorf("the status of a pod that is gone got %v, expected a final 404", r)
	}
	s.pod("p", s.n1, nil)
	if r := s.apply(s.n1, s.running(old)); r.Code != 409 {
		t.Errorf("the status of an earlier pod of that name got %v, expected a final 409", r)
	}
	cache[object.Key{Kind: object.Pods, Namespace: s.ns, Name: "p"}] = old // the cache has not seen the change
	if r := s.apply(s.n1, s.running(old)); r.Code != 409 {
		t.Errorf("with a cache that is behind, the same got %v, expected a final 409", r)
	}
	if got := s.get("p").Status.Phase; got != corev1.PodPending {
		t.Errorf("the new pod became %s by the old one's status", got)
	}
}

func TestAFinalizerKeepsThePodAndTheDeletionIsDone(t *testing.T) {
	s := constrained(t, frozen{})
	p := s.pod("job", s.n1, func(p *corev1.Pod) { p.Finalizers = []string{"example.com/keep"} })
	r := s.apply(s.n1, &wire.Write{Kind: "pods", Namespace: s.ns, Name: "job", Op: wire.Op_OP_DELETE, Uid: string(p.UID)})
	if r.Code != 200 {
		t.Errorf("got %v, expected a final 200", r)
	}
	if s.get("job").DeletionTimestamp == nil {
		t.Error("the pod is not being deleted")
	}
	clear := s.get("job")
	clear.Finalizers = nil
	if _, err := shared.client.CoreV1().Pods(s.ns).Update(t.Context(), clear, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestEventsArriveOnce(t *testing.T) {
	s := constrained(t, frozen{})
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "p.1"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: s.ns, Name: "p"},
		Source: corev1.EventSource{Component: "kubelet", Host: s.n1}, Reason: "Started", Type: "Normal", Message: "hello",
	}
	w := &wire.Write{Id: 5, Kind: "events", Namespace: s.ns, Name: "p.1", Op: wire.Op_OP_CREATE, Body: encode(t, object.Events, e)}
	if r := s.apply(s.n1, w); r.Code != 201 || r.ResourceVersion == 0 {
		t.Errorf("got %v, expected 201", r)
	}
	if r := s.apply(s.n1, w); r.Code != 409 {
		t.Errorf("sent again: got %v, expected a final 409", r)
	}
	e.Count = 7
	for _, name := range []string{"p.1", "p.2"} { // one that is there, and one that is gone: both end up as sent
		e.Name = name
		if r := s.apply(s.n1, &wire.Write{Id: 6, Kind: "events", Namespace: s.ns, Name: name, Op: wire.Op_OP_PUT, Body: encode(t, object.Events, e)}); !r.Final || r.Code > 201 {
			t.Errorf("a newer count of %s got %v", name, r)
		}
		if got, err := shared.client.CoreV1().Events(s.ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil || got.Count != 7 {
			t.Errorf("event %s: %v, %v; expected count 7", name, got, err)
		}
	}
	gone := *e
	gone.Name, gone.Namespace, gone.InvolvedObject.Namespace = "p.1", "nowhere", "nowhere"
	if r := s.apply(s.n1, &wire.Write{Kind: "events", Namespace: "nowhere", Name: "p.1", Op: wire.Op_OP_CREATE, Body: encode(t, object.Events, &gone)}); r.Code != 404 {
		t.Errorf("an event of a namespace that is gone got %v, expected a final 404", r)
	}
}

func TestACSINodeIsCreatedAndReplaced(t *testing.T) {
	cache := frozen{}
	s := constrained(t, cache)
	n, err := shared.client.CoreV1().Nodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(drivers ...string) *wire.Write {
		c := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: s.n1, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: s.n1, UID: n.UID}}}}
		for _, d := range drivers {
			c.Spec.Drivers = append(c.Spec.Drivers, storagev1.CSINodeDriver{Name: d, NodeID: s.n1})
		}
		return &wire.Write{Kind: "csinodes.storage.k8s.io", Name: s.n1, Op: wire.Op_OP_PUT, Body: encode(t, object.CSINodes, c)}
	}
	if r := s.apply(s.n1, put()); r.Code != 201 {
		t.Fatalf("create: %v", r)
	}
	first, err := shared.client.StorageV1().CSINodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.apply(s.n1, put("a.example.com")); r.Code != 200 {
		t.Fatalf("replace: %v", r)
	}
	// A fresh hub whose cache is behind.
	s.a = applier(t, build.Namespace, upstream.Constrained, frozen{object.Key{Kind: object.CSINodes, Name: s.n1}: first})
	if r := s.apply(s.n1, put("a.example.com", "b.example.com")); r.Code != 200 {
		t.Fatalf("replace with a cache that is behind: %v", r)
	}
	got, err := shared.client.StorageV1().CSINodes().Get(t.Context(), s.n1, metav1.GetOptions{})
	if err != nil || len(got.Spec.Drivers) != 2 || got.UID != first.UID {
		t.Errorf("CSINode %v, %v; expected the same object with two drivers", got, err)
	}
}

func TestCallsGetTheAPIServersAnswer(t *testing.T) {
	s := constrained(t, frozen{})
	yes := true
	p := s.pod("p", s.n1, func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &yes })
	request, err := json.Marshal(&authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec:     authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: p.UID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	token := func(node string) *wire.Reply {
		return s.a.Call(t.Context(), node, &wire.Call{Verb: "create", Kind: "serviceaccounts", Subresource: "token", Namespace: s.ns, Name: "default", ContentType: "application/json", Body: request})
	}
	var r *wire.Reply
	eventually(t, 20*time.Second, func() (string, bool) {
		r = token(s.n1)
		return fmt.Sprintf("%d %s", r.Code, r.Body), r.Code == 201
	})
	var tok authenticationv1.TokenRequest
	if err := json.Unmarshal(r.Body, &tok); err != nil || tok.Status.Token == "" {
		t.Errorf("no token in %s", r.Body)
	}
	if r := token(s.n2); r.Code != 403 {
		t.Errorf("another node got %d for that token, expected 403", r.Code)
	}
	plain := encode(t, object.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "static"},
		Spec: corev1.PodSpec{NodeName: s.n1, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	post := &wire.Call{Verb: "create", Kind: "pods", Namespace: s.ns, Name: "static", ContentType: "application/vnd.kubernetes.protobuf", Body: plain}
	if r := s.a.Call(t.Context(), s.n1, post); r.Code != 403 {
		t.Errorf("a pod that is no mirror pod: %d, expected 403", r.Code)
	}
	post.Body = s.mirror("static")
	r = s.a.Call(t.Context(), s.n1, post)
	if r.Code != 201 {
		t.Fatalf("a mirror pod: %d %q", r.Code, r.Body)
	}
	k, _ := object.Lookup(object.Pods)
	if o, err := object.Decode(k, r.Body); err != nil || o.GetUID() == "" {
		t.Errorf("the reply to a protobuf request is %s: %v", r.ContentType, err)
	}
}

// A node that is drained at its site takes no more pods, and evicts its own and no others, with the rights of
// build/manifests.
func TestANodeDrainsItselfAlone(t *testing.T) {
	s := constrained(t, frozen{})
	s.pod("mine", s.n1, nil)
	s.pod("other", s.n2, nil)
	evict := func(node, pod string) *wire.Reply {
		body := fmt.Appendf(nil, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"namespace":%q,"name":%q}}`, s.ns, pod)
		return s.a.Call(t.Context(), node, &wire.Call{Verb: "create", Kind: "pods", Subresource: "eviction", Namespace: s.ns, Name: pod, ContentType: "application/json", Body: body})
	}
	if r := evict(s.n1, "other"); r.Code != 403 {
		t.Errorf("the eviction of another node's pod got %d %s, expected 403", r.Code, r.Body)
	}
	var r *wire.Reply
	eventually(t, 20*time.Second, func() (string, bool) {
		r = evict(s.n1, "mine")
		return fmt.Sprintf("%d %s", r.Code, r.Body), r.Code == 201
	})
	if p, err := shared.client.CoreV1().Pods(s.ns).Get(t.Context(), "mine", metav1.GetOptions{}); err == nil && p.DeletionTimestamp == nil {
		t.Error("the pod is not on its way out")
	} else if err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	cordon := &wire.Call{Verb: "patch", Kind: "nodes", Name: s.n1, ContentType: "application/merge-patch+json", Body: []byte(object.Cordon)}
	if r := s.a.Call(t.Context(), s.n1, cordon); r.Code != 200 {
		t.Fatalf("the cordon got %d %s", r.Code, r.Body)
	}
	if n, err := shared.client.CoreV1().Nodes().Get(t.Context(), s.n1, metav1.GetOptions{}); err != nil || !n.Spec.Unschedulable {
		t.Errorf("the Node takes pods: %v", err)
	}
}

func (s *site) mirror(name string) []byte {
	s.t.Helper()
	n, err := shared.client.CoreV1().Nodes().Get(s.t.Context(), s.n1, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	yes := true
	return encode(s.t, object.Pods, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name,
			Annotations:     map[string]string{corev1.MirrorPodAnnotationKey: "h"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: s.n1, UID: types.UID(n.UID), Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: s.n1, Containers: []corev1.Container{{Name: "c", Image: "i"}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}},
	})
}
