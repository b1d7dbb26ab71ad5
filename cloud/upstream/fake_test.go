package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A server answers requests in place of kube-apiserver and remembers them.
type server struct {
	t      testing.TB
	answer func(*http.Request) (*http.Response, error)

	mu   sync.Mutex
	seen []*http.Request
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.seen = append(s.seen, r)
	s.mu.Unlock()
	return s.answer(r)
}

func (s *server) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

type objects map[object.Key]object.Object

func (o objects) Object(key object.Key) (object.Object, bool) {
	got, ok := o[key]
	if !ok {
		return nil, false
	}
	return got.DeepCopyObject().(object.Object), true
}

type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// newApplier returns an Applier in constrained mode whose API server is answer.
func newApplier(t testing.TB, cache objects, answer func(*http.Request) (*http.Response, error)) (*Applier, *server, *manualClock) {
	t.Helper()
	s := &server{t: t, answer: answer}
	clock := &manualClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	compressor, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Impersonation: Constrained, Timeout: 5 * time.Second}, Deps{
		RESTConfig: &rest.Config{Host: "https://api.example:6443/base", Transport: s}, Objects: cache, Compressor: compressor,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Clock: clock, Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a, s, clock
}

func respond(code int, contentType string, body []byte, header ...string) *http.Response {
	h := http.Header{"Content-Type": {contentType}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(bytes.NewReader(body))}
}

func refuse(code int, reason metav1.StatusReason, message string, header ...string) *http.Response {
	body, _ := json.Marshal(&metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: int32(code), Reason: reason, Message: message})
	return respond(code, runtime.ContentTypeJSON, body, header...)
}

func accept(t testing.TB, id object.ID, o object.Object) *http.Response {
	return respond(http.StatusOK, runtime.ContentTypeProtobuf, encode(t, id, o))
}

func encode(t testing.TB, id object.ID, o object.Object) []byte {
	t.Helper()
	k, ok := object.Lookup(id)
	if !ok {
		t.Fatalf("no kind %s", id)
	}
	b, err := object.Encode(k, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var podKey = object.Key{Kind: object.Pods, Namespace: "shop", Name: "till"}

func boundPod(uid, rv string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till", UID: types.UID(uid), ResourceVersion: rv},
		Spec:       corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func overlayWrite(t testing.TB, uid string) *wire.Write {
	t.Helper()
	body, err := object.EncodeOverlay(&object.Overlay{
		Pod:        &corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		Conditions: []string{"Ready"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Write{Id: 7, Kind: "pods", Namespace: "shop", Name: "till", Op: wire.Op_OP_OVERLAY, Uid: uid, Body: body}
}

func deleteWrite(uid string) *wire.Write {
	return &wire.Write{Id: 8, Kind: "pods", Namespace: "shop", Name: "till", Op: wire.Op_OP_DELETE, Uid: uid}
}

func eventWrite(t testing.TB, change func(*corev1.Event)) *wire.Write {
	t.Helper()
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "shop", Name: "till.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "till"},
		Source:         corev1.EventSource{Component: "kubelet", Host: "n1"}, ReportingInstance: "n1",
		Reason: "Started", Type: "Normal",
	}
	if change != nil {
		change(e)
	}
	return &wire.Write{Id: 9, Kind: "events", Namespace: "shop", Name: "till.1", Op: wire.Op_OP_CREATE, Body: encode(t, object.Events, e)}
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
