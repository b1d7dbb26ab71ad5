package kubeapi

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
)

const (
	node    = "gateway-7"
	patient = 10 * time.Second // how long a test waits for what must happen
)

type env struct {
	*Server
	t      testing.TB
	store  *fakeStore
	cloud  *fakeCloud
	clock  *fakeClock
	client kubernetes.Interface
	json   kubernetes.Interface
	reg    *prometheus.Registry
	rv     int
}

func newEnv(t testing.TB, change ...func(*Config, *Deps)) *env {
	t.Helper()
	// klog's flusher and others of the libraries start once per process.
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	e := &env{
		t: t, store: newFakeStore(), cloud: &fakeCloud{}, clock: &fakeClock{now: time.Now()}, reg: prometheus.NewRegistry(),
	}
	cfg := Config{NodeName: node, Version: "v1.36.3"}
	deps := Deps{
		Store: e.store, Cloud: e.cloud, Clock: e.clock, Registerer: e.reg,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	e.Server = s
	clientOf := func(contentType string) kubernetes.Interface {
		c, err := kubernetes.NewForConfig(&rest.Config{
			Host: "http://edge", Transport: s.Transport(), QPS: -1,
			ContentConfig: rest.ContentConfig{
				ContentType: contentType, AcceptContentTypes: contentType + ",application/json",
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	e.client, e.json = clientOf(runtime.ContentTypeProtobuf), clientOf(runtime.ContentTypeJSON)
	return e
}

// cloudVersion returns the next resourceVersion of the cloud.
func (e *env) cloudVersion() string {
	e.rv++
	return fmt.Sprint(5000 + e.rv)
}

func (e *env) meta(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: ns, Name: name, UID: types.UID(uid), ResourceVersion: e.cloudVersion(),
		CreationTimestamp: metav1.NewTime(e.clock.Now().Add(-time.Hour).Truncate(time.Second)),
	}
}

func (e *env) pod(name, uid string) *corev1.Pod {
	grace := int64(30)
	m := e.meta("shop", name, uid)
	m.Labels = map[string]string{"app": name}
	return &corev1.Pod{
		ObjectMeta: m,
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: "demo:1"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort},
	}
}

func (e *env) node() *corev1.Node {
	m := e.meta("", node, "node-uid")
	m.Labels = map[string]string{"site": "north"}
	return &corev1.Node{
		ObjectMeta: m,
		Spec:       corev1.NodeSpec{ProviderID: "tether://" + node},
		Status: corev1.NodeStatus{
			Capacity: corev1.ResourceList{"example.com/cloud": quantity.MustParse("2")},
			Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "CloudSaysSo"},
			},
		},
	}
}

func (e *env) configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: e.meta("shop", name, "cm-"+name), Data: map[string]string{"k": value}}
}

func (e *env) key(kind object.ID, ns, name string) object.Key {
	return object.Key{Kind: kind, Namespace: ns, Name: name}
}

// next returns the next event of a watch, and fails the test if none comes.
func next(t testing.TB, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended, expected an event")
		}
		return e
	case <-time.After(patient):
		t.Fatal("no event came")
	}
	panic("unreachable")
}

// expect checks the next event's type, name and uid.
func expect(t testing.TB, w watch.Interface, kind watch.EventType, name, uid string) object.Object {
	t.Helper()
	e := next(t, w)
	o, ok := e.Object.(object.Object)
	if !ok {
		t.Fatalf("got %s of %T (%+v), expected %s of %s", e.Type, e.Object, e.Object, kind, name)
	}
	if e.Type != kind || o.GetName() != name || (uid != "" && string(o.GetUID()) != uid) {
		t.Fatalf("got %s of %s (uid %s), expected %s of %s (uid %s)", e.Type, o.GetName(), o.GetUID(), kind, name, uid)
	}
	return o
}

// raw makes a request without a client's help and returns code and body.
func (e *env) raw(method, path, contentType, body string) (int, string) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://edge"+path, strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	resp, err := e.Transport().RoundTrip(req)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
