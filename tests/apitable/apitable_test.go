package apitable

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// seed makes the objects of a small node in the cloud and hands them to the edge, and returns their uids by name.
func seed(t *testing.T, real *reality, e *edge) map[string]string {
	t.Helper()
	ctx := t.Context()
	uids := map[string]string{}
	keep := func(id object.ID, o object.Object, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e.receive(id, o)
		uids[o.GetName()] = string(o.GetUID())
	}
	core := real.admin.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: space}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the default service account", func() error {
		sa, err := core.ServiceAccounts(space).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			keep(object.ServiceAccounts, sa, nil)
		}
		return err
	})
	n, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"site": "north"}},
		Spec: corev1.NodeSpec{ProviderID: "tether://" + nodeName}}, metav1.CreateOptions{})
	keep(object.Nodes, n, err)
	svc, err := core.Services(space).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "front"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	keep(object.Services, svc, err)
	svc, err = core.Services(space).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "headless"},
		Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	keep(object.Services, svc, err)
	cm, err := core.ConfigMaps(space).Create(ctx, configMap("settings", "1"), metav1.CreateOptions{})
	keep(object.ConfigMaps, cm, err)
	secret, err := core.Secrets(space).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key"},
		StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	keep(object.Secrets, secret, err)
	for _, name := range []string{"web", "job", "other"} {
		p, err := core.Pods(space).Create(ctx, pod(name), metav1.CreateOptions{})
		keep(object.Pods, p, err)
	}
	return uids
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": value}}
}

func pod(name string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: nodeName,
			Containers: []corev1.Container{{Name: "main", Image: "demo", EnvFrom: []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
			}}},
		},
	}
	if name == "job" {
		p.Finalizers = []string{"example.com/tracking"}
	}
	return p
}

// TestTheLocalAPIAnswersAsTheAPIServerDoes replays the table.
func TestTheLocalAPIAnswersAsTheAPIServerDoes(t *testing.T) {
	real := startReality(t)
	e := startEdge(t, real)
	uids := seed(t, real, e)
	fill := func(s string) string {
		for name, uid := range uids {
			s = strings.ReplaceAll(s, "UID("+name+")", uid)
		}
		return s
	}
	t.Run("tables", func(t *testing.T) {
		compareTables(t, real, e, ns+"/pods", "/api/v1/nodes", ns+"/configmaps/settings", ns+"/secrets")
	})
	rows, deliberate := 0, 0
	for _, r := range table {
		r.path, r.body = fill(r.path), fill(r.body)
		rows++
		if r.differs != "" || r.message != "" {
			deliberate++
		}
		t.Run(r.name, func(t *testing.T) { compare(t, real, e, r) })
	}
	t.Logf("%d rows, of which %d differ deliberately, in whole or in an error's text", rows, deliberate)
	t.Run("table of events", func(t *testing.T) { compareTables(t, real, e, ns+"/events") })
	t.Run("watches of the cloud's changes", func(t *testing.T) { compareWatches(t, real, e) })
	t.Run("watches of the node's own writes", func(t *testing.T) { compareOwnWrites(t, real, e) })
}

// tableAge is what two tables that were made one after the other show differently.
var tableAge = regexp.MustCompile(`^([0-9]+[smh])+$`)

// compareTables compares what kubectl get prints of the kinds that people look at most. The edge's columns carry no
// descriptions.
func compareTables(t *testing.T, real *reality, e *edge, paths ...string) {
	type shown struct {
		Columns []metav1.TableColumnDefinition `json:"columnDefinitions"`
		Rows    []struct {
			Cells []any `json:"cells"`
		} `json:"rows"`
	}
	read := func(via http.RoundTripper, base, path string) (out shown) {
		t.Helper()
		resp, err := send(t.Context(), via, base, row{method: get, path: path, accept: "application/json;as=Table;g=meta.k8s.io;v=v1"})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		for i := range out.Columns {
			out.Columns[i].Description = ""
		}
		for _, r := range out.Rows {
			for i, c := range r.Cells {
				if text, ok := c.(string); ok && tableAge.MatchString(text) {
					r.Cells[i] = "AGE"
				}
			}
		}
		return out
	}
	for _, path := range paths {
		want, got := read(real.root, real.base, path), read(e.node, "http://edge", path)
		if diff := cmp.Diff(want, got); diff != "" || len(want.Rows) == 0 {
			t.Errorf("%s: %d rows, from the API server (-) to the edge (+):\n%s", path, len(want.Rows), diff)
		}
	}
}

// compareWatches makes the same history on both sides under watches of several kinds.
func compareWatches(t *testing.T, real *reality, e *edge) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	paths := map[string]int{ // the watch, and how many events the history below makes for it
		"/api/v1/namespaces/shop/configmaps?watch=true&fieldSelector=metadata.name%3Dsettings":                                                                   5,
		"/api/v1/configmaps?watch=true&labelSelector=tier%3Dfront":                                                                                               3,
		"/api/v1/configmaps?watch=true&fieldSelector=metadata.name%3Dsettings&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan": 6,
		"/api/v1/watch/namespaces/shop/configmaps/settings":                                                                                                      5,
		"/api/v1/namespaces/shop/services?watch=true&fieldSelector=spec.clusterIP%21%3DNone,metadata.name%3Dfront":                                               1,
	}
	type pair struct{ want, got *stream }
	watches := map[string]pair{}
	for path := range paths {
		watches[path] = pair{watchOf(t, real.root, real.base, path), watchOf(t, e.node, "http://edge", path)}
	}
	defer func() {
		for _, w := range watches {
			_, _ = w.want.body.Close(), w.got.body.Close()
		}
	}()
	maps := real.admin.CoreV1().ConfigMaps(space)
	change := func(label, value string) {
		t.Helper()
		cm := configMap("settings", value)
		cm.Labels = map[string]string{"tier": label}
		got, err := maps.Update(ctx, cm, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e.receive(object.ConfigMaps, got)
	}
	change("front", "2")
	change("front", "3")
	change("back", "4")
	old, err := maps.Get(ctx, "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "settings", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.remove(object.ConfigMaps, old)
	for path, n := range paths {
		w := watches[path]
		want, got := w.want.next(n), w.got.next(n)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: from the API server (-) to the edge (+):\n%s", path, diff)
		}
	}
}

// compareOwnWrites watches pods from a version while the node writes to them, and while one is made anew.
func compareOwnWrites(t *testing.T, real *reality, e *edge) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pods := real.admin.CoreV1().Pods(space)
	fresh := func() string {
		t.Helper()
		p, err := pods.Create(ctx, pod("fresh"), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		e.receive(object.Pods, p)
		return string(p.UID)
	}
	uid := fresh()
	const list = "/api/v1/pods?fieldSelector=spec.nodeName%3D" + nodeName
	from := func(via http.RoundTripper, base string) *stream {
		return watchOf(t, via, base, list+"&watch=true&resourceVersion="+versionOf(t, via, base, list))
	}
	want, got := from(real.node, real.base), from(e.node, "http://edge")
	defer func() { _, _ = want.body.Close(), got.body.Close() }()
	for _, r := range []row{
		{method: patch, path: ns + "/pods/fresh/status", contentType: strategic, body: `{"status":{"phase":"Running"}}`},
		{method: patch, path: ns + "/pods/fresh/status", contentType: strategic, body: `{"status":{"phase":"Running"}}`},
		{method: patch, path: ns + "/pods/fresh/status", contentType: strategic, body: `{"status":{"phase":"Failed"}}`},
		{method: del, path: ns + "/pods/fresh", body: `{"gracePeriodSeconds":0,"preconditions":{"uid":"` + uid + `"}}`},
	} {
		compare(t, real, e, r)
	}
	fresh()
	// MODIFIED twice (the second write changes nothing), DELETED, and ADDED with another uid. The API server first
	// marks a pod that is deleted without grace, which watchers see; the edge does both in one change of its store.
	a, b := want.next(5), got.next(4)
	if len(a) != 5 {
		t.Fatalf("the API server's watch: %v", a)
	}
	if mark := unmark(a[2]); mark != "MODIFIED" {
		t.Errorf("the API server's third event is %v, expected the mark of a deletion", a[2])
	}
	a = slices.Delete(a, 2, 3)
	unmark(a[2])
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("from the API server (-) to the edge (+):\n%s", diff)
	}
}

// unmark takes the mark of a deletion without grace off an event's object, and returns the event's type.
func unmark(event any) any {
	e, ok := event.(map[string]any)
	if !ok {
		return event
	}
	if o, ok := e["object"].(map[string]any); ok {
		if m, ok := o["metadata"].(map[string]any); ok && m["deletionGracePeriodSeconds"] == float64(0) {
			delete(m, "deletionGracePeriodSeconds")
			return e["type"]
		}
	}
	return "unmarked"
}

// versionOf returns the resourceVersion of a list.
func versionOf(t *testing.T, via http.RoundTripper, base, path string) string {
	t.Helper()
	resp, err := send(t.Context(), via, base, row{method: http.MethodGet, path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var list metav1.PartialObjectMetadataList
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}
