package apitable

import (
	"context"
	"fmt"
	"strings"
	"testing"

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
	t.Run("watches", func(t *testing.T) { compareWatches(t, real, e) })
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
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Errorf("%s:\n the API server: %v\n the edge:       %v", path, want, got)
		}
	}
}
