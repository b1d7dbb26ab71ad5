package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// I2: a write leaves the outbox only on a definitive answer.
func TestOnlyDefinitiveAnswersAreFinal(t *testing.T) {
	overlay := func(t *testing.T) *wire.Write { return overlayWrite(t, "u1") }
	del := func(*testing.T) *wire.Write { return deleteWrite("u1") }
	event := func(t *testing.T) *wire.Write { return eventWrite(t, nil) }
	for _, c := range []struct {
		name   string
		write  func(*testing.T) *wire.Write
		answer *http.Response
		err    error
		final  bool
		code   int32
		after  time.Duration
	}{
		{name: "overlay accepted", write: overlay, answer: accept(t, object.Pods, boundPod("u1", "6")), final: true, code: 200},
		{name: "event created", write: event, answer: respond(201, protobufType, nil), final: true, code: 201},
		{name: "deletion accepted, the object waits for a finalizer", write: del, answer: respond(202, protobufType, nil), final: true, code: 202},
		{name: "bad request", write: overlay, answer: refuse(400, metav1.StatusReasonBadRequest, "bad"), final: true, code: 400},
		{name: "gone from the API", write: overlay, answer: refuse(404, metav1.StatusReasonNotFound, "no"), final: true, code: 404},
		{name: "deleted already", write: del, answer: refuse(404, metav1.StatusReasonNotFound, "no"), final: true, code: 404},
		{name: "expired", write: overlay, answer: refuse(410, metav1.StatusReasonExpired, "old"), final: true, code: 410},
		{name: "invalid", write: overlay, answer: refuse(422, metav1.StatusReasonInvalid, "no"), final: true, code: 422},
		{name: "event exists", write: event, answer: refuse(409, metav1.StatusReasonAlreadyExists, "there"), final: true, code: 409},
		{name: "event conflict of another kind", write: event, answer: refuse(409, metav1.StatusReasonConflict, "?"), code: 409, after: retryConflict},
		{name: "unauthorized", write: overlay, answer: refuse(401, metav1.StatusReasonUnauthorized, "who"), code: 401, after: retryForbidden},
		{name: "forbidden overlay", write: overlay, answer: refuse(403, metav1.StatusReasonForbidden, "no"), code: 403, after: retryForbidden},
		{name: "forbidden deletion", write: del, answer: refuse(403, metav1.StatusReasonForbidden, "no"), code: 403, after: retryForbidden},
		{name: "forbidden event, the first time", write: event, answer: refuse(403, metav1.StatusReasonForbidden, "no"), code: 403, after: retryForbidden},
		{name: "too many requests", write: overlay, answer: refuse(429, metav1.StatusReasonTooManyRequests, "slow", "Retry-After", "3"), code: 429, after: 3 * time.Second},
		{name: "request timeout", write: overlay, answer: refuse(408, metav1.StatusReasonTimeout, "slow"), code: 408, after: retryServer},
		{name: "too large", write: event, answer: refuse(413, metav1.StatusReasonRequestEntityTooLarge, "big"), code: 413, after: retryServer},
		{name: "internal error", write: overlay, answer: refuse(500, metav1.StatusReasonInternalError, "oh"), code: 500, after: retryServer},
		{name: "unavailable", write: del, answer: refuse(503, metav1.StatusReasonServiceUnavailable, "no", "Retry-After", "1"), code: 503, after: time.Second},
		{name: "a proxy's page", write: event, answer: respond(502, "text/html", []byte("<html>bad gateway")), code: 502, after: retryServer},
		{name: "no answer", write: overlay, err: io.ErrUnexpectedEOF, code: 0, after: retryServer},
		{name: "timeout", write: event, err: context.DeadlineExceeded, code: 0, after: retryServer},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, _, _ := newApplier(t, objects{podKey: boundPod("u1", "5")}, func(*http.Request) (*http.Response, error) { return c.answer, c.err })
			w := c.write(t)
			r := a.Apply(background(t), "n1", w)
			if r.Final != c.final || r.Code != c.code || r.Id != w.Id || r.RetryAfterMs != c.after.Milliseconds() {
				t.Errorf("got code %d final %v id %d retry after %d ms (%s); expected code %d final %v id %d retry after %v",
					r.Code, r.Final, r.Id, r.RetryAfterMs, r.Message, c.code, c.final, w.Id, c.after)
			}
		})
	}
}

func TestAConflictIsFinalOnlyWhereTheUIDDiffers(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(*testing.T) *wire.Write
		live  *corev1.Pod // what a read finds
		code  int32
		final bool
	}{
		{"overlay, other uid", func(t *testing.T) *wire.Write { return overlayWrite(t, "u1") }, boundPod("u2", "9"), 409, true},
		{"overlay, newer version for ever", func(t *testing.T) *wire.Write { return overlayWrite(t, "u1") }, boundPod("u1", "9"), 409, false},
		{"overlay, gone", func(t *testing.T) *wire.Write { return overlayWrite(t, "u1") }, nil, 404, true},
		{"delete, other uid", func(*testing.T) *wire.Write { return deleteWrite("u1") }, boundPod("u2", "9"), 409, true},
		{"delete, another writer for ever", func(*testing.T) *wire.Write { return deleteWrite("u1") }, boundPod("u1", "9"), 409, false},
		{"delete, gone", func(*testing.T) *wire.Write { return deleteWrite("u1") }, nil, 404, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, s, _ := newApplier(t, objects{podKey: boundPod("u1", "5")}, func(r *http.Request) (*http.Response, error) {
				switch {
				case r.Method != http.MethodGet:
					return refuse(409, metav1.StatusReasonConflict, "conflict"), nil
				case c.live == nil:
					return refuse(404, metav1.StatusReasonNotFound, "gone"), nil
				}
				return accept(t, object.Pods, c.live), nil
			})
			r := a.Apply(background(t), "n1", c.write(t))
			if r.Code != c.code || r.Final != c.final {
				t.Errorf("got code %d final %v (%s), expected %d %v", r.Code, r.Final, r.Message, c.code, c.final)
			}
			if n := len(s.requests()); n > 2*(a.cfg.Conflicts+1) {
				t.Errorf("%d requests for one write", n)
			}
		})
	}
}

// A 403 on an event is given up after a time by the hub's clock; on state never.
func TestForbiddenEventsAreGivenUpAndStateIsNot(t *testing.T) {
	a, _, clock := newApplier(t, objects{podKey: boundPod("u1", "5")}, func(*http.Request) (*http.Response, error) {
		return refuse(403, metav1.StatusReasonForbidden, `User "system:node:n1" cannot create resource "events"`), nil
	})
	ctx := background(t)
	event := eventWrite(t, nil)
	event.CreatedUnixMs = 1 // an edge whose clock stands at 1970
	if r := a.Apply(ctx, "n1", event); r.Final {
		t.Fatalf("given up at the first refusal: %v", r)
	}
	clock.add(9*time.Minute + 59*time.Second)
	if r := a.Apply(ctx, "n1", event); r.Final {
		t.Fatalf("given up before 10 minutes: %v", r)
	}
	clock.add(time.Second)
	if r := a.Apply(ctx, "n1", event); !r.Final || r.Code != 403 {
		t.Errorf("not given up after 10 minutes: %v", r)
	}
	for _, w := range []*wire.Write{overlayWrite(t, "u1"), deleteWrite("u1")} {
		for range 3 {
			if r := a.Apply(ctx, "n1", w); r.Final {
				t.Errorf("%v was given up on 403", w.Op)
			}
			clock.add(time.Hour)
		}
	}
}

func TestA403AboutImpersonationIsCloudCoresOwnFault(t *testing.T) {
	a, _, clock := newApplier(t, objects{podKey: boundPod("u1", "5")}, func(*http.Request) (*http.Response, error) {
		return refuse(403, metav1.StatusReasonForbidden,
			`events is forbidden: User "system:serviceaccount:tether-system:cloudcore" cannot impersonate-on:arbitrary-node:create resource "events"`), nil
	})
	ctx := background(t)
	for range 3 {
		if r := a.Apply(ctx, "n1", eventWrite(t, nil)); r.Final {
			t.Fatal("an event was given up because CloudCore lacks a right")
		}
		clock.add(time.Hour)
	}
	if got := value(t, a.m.faults); got != 3 {
		t.Errorf("tether_upstream_impersonation_faults_total = %v, expected 3", got)
	}
	r := a.Call(ctx, "n1", &wire.Call{Id: 4, Verb: "get", Kind: "pods", Namespace: "shop", Name: "till"})
	if r.Code != http.StatusServiceUnavailable || r.Id != 4 {
		t.Errorf("a call met CloudCore's own fault and got %d, expected 503", r.Code)
	}
}

func TestAWriteEndsWithItsContext(t *testing.T) {
	a, _, _ := newApplier(t, objects{}, func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r := a.Apply(ctx, "n1", overlayWrite(t, "u1")); r.Final || r.Code != 0 {
		t.Errorf("a write whose context ended got %v, expected no answer", r)
	}
}

func TestAPanicBecomesAResult(t *testing.T) {
	a, _, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { panic("defect") })
	if r := a.Apply(background(t), "n1", eventWrite(t, nil)); r == nil || r.Final || r.Code != 500 {
		t.Errorf("got %v, expected 500 that is not final", r)
	}
	if r := a.Call(background(t), "n1", &wire.Call{Verb: "get", Kind: "pods", Namespace: "a", Name: "b"}); r == nil || r.Code != 500 {
		t.Errorf("got %v, expected 500", r)
	}
}

// One node with many writes must not take all requests.
func TestANodeHoldsNoMoreThanItsShare(t *testing.T) {
	release := make(chan struct{})
	started := make(chan string, 64)
	a, _, _ := newApplier(t, objects{}, func(r *http.Request) (*http.Response, error) {
		started <- r.Header.Get("Impersonate-User")
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return nil, errors.New("closed")
	})
	ctx := background(t)
	done := make(chan struct{})
	for range a.cfg.RequestsPerNode + 5 {
		go func() { a.Apply(ctx, "greedy", deleteWrite("u1")); done <- struct{}{} }()
	}
	for range a.cfg.RequestsPerNode {
		<-started
	}
	go func() { a.Apply(ctx, "modest", deleteWrite("u1")); done <- struct{}{} }()
	if who := <-started; who != "system:node:modest" {
		t.Errorf("request number %d is by %s, expected the other node", a.cfg.RequestsPerNode+1, who)
	}
	close(release)
	for range a.cfg.RequestsPerNode + 6 {
		<-done
	}
	if n := a.states.shares.count(); n != 0 {
		t.Errorf("%d shares are left behind", n)
	}
}

// opening tells of each body that is opened.
type opening struct {
	Compressor
	opened chan struct{}
}

func (o opening) Open(body []byte, how wire.Compression) ([]byte, error) {
	o.opened <- struct{}{}
	return o.Compressor.Open(body, how)
}

// What waits for the API server waits as it came: decoded it takes many times the memory.
func TestANodesWritesAreOpenedAFewAtATime(t *testing.T) {
	release := make(chan struct{})
	started := make(chan struct{}, 64)
	a, _, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) {
		started <- struct{}{}
		<-release
		return nil, errors.New("closed")
	})
	o := opening{a.deps.Compressor, make(chan struct{}, 64)}
	a.deps.Compressor = o
	ctx := background(t)
	done := make(chan *wire.Result)
	const writes = 30
	for range writes {
		go func() { done <- a.Apply(ctx, "greedy", deleteWrite("u1")) }()
	}
	for range a.cfg.RequestsPerNode {
		<-started
	}
	if n := len(o.opened); n != a.cfg.RequestsPerNode {
		t.Errorf("%d writes are opened while the API server says nothing, expected %d", n, a.cfg.RequestsPerNode)
	}
	// One that waits in vain is told so, and is tried again.
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if r := a.Apply(short, "greedy", deleteWrite("u1")); r.Final || r.Code != 0 || !strings.Contains(r.Message, "earlier writes") {
		t.Errorf("a write that waited in vain got %v, expected one that is not final", r)
	}
	close(release)
	for range writes {
		<-done
	}
}

func TestRequestsCarryTheNodesNameOnly(t *testing.T) {
	for mode, groups := range map[Impersonation]string{Constrained: "", Legacy: "system:nodes"} {
		a, s, _ := newApplier(t, objects{}, func(*http.Request) (*http.Response, error) { return respond(201, protobufType, nil), nil })
		a.mode = mode
		a.Apply(background(t), "n1", eventWrite(t, nil))
		r := s.requests()[0]
		if got := r.Header.Get("Impersonate-User"); got != "system:node:n1" {
			t.Errorf("%s: Impersonate-User %q", mode, got)
		}
		if got := strings.Join(r.Header.Values("Impersonate-Group"), ","); got != groups {
			t.Errorf("%s: Impersonate-Group %q, expected %q", mode, got, groups)
		}
		if got := r.URL.String(); got != "https://api.example:6443/base/api/v1/namespaces/shop/events" {
			t.Errorf("URL %s", got)
		}
	}
}
