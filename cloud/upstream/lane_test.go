package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// narrow gives everything one turn at a time.
func narrow(a *Applier) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "waiting"})
	a.states, a.events, a.calls = newLane(1, 8, gauge), newLane(1, 8, gauge), newLane(1, 8, gauge)
}

// An API server that is behind does not get requests that are given up while it works on them, for others to be made in their place: then it would
// do nothing else.
func TestTheTimeOfARequestBeginsWithItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = 3 * time.Second
		var made, abandoned atomic.Int32
		a, _, _ := newApplier(t, objects{podKey: boundPod("u1", "1")}, func(r *http.Request) (*http.Response, error) {
			made.Add(1)
			select {
			case <-time.After(slow):
				if r.Method == http.MethodPatch {
					return accept(t, object.Pods, boundPod("u1", "2")), nil
				}
				return respond(http.StatusCreated, protobufType, nil), nil
			case <-r.Context().Done():
				abandoned.Add(1)
				return nil, r.Context().Err()
			}
		})
		narrow(a)
		const writes = 30
		served := int(a.cfg.Wait / slow)
		start := time.Now()
		var all sync.WaitGroup
		results := make([]*wire.Result, writes)
		for i := range writes {
			all.Go(func() { results[i] = a.Apply(t.Context(), fmt.Sprint("n", i), overlayWrite(t, "u1")) })
		}
		synctest.Wait()
		// What is of another sort does not wait behind them.
		if r := a.Apply(t.Context(), "n1", eventWrite(t, nil)); r.Code != http.StatusCreated {
			t.Errorf("an Event got %v", r)
		}
		if took := time.Since(start); took > slow {
			t.Errorf("an Event took %s beside the states that wait", took)
		}
		all.Wait()
		ok := 0
		for _, r := range results {
			if r.Code == http.StatusOK {
				ok++
				continue
			}
			after := time.Duration(r.RetryAfterMs) * time.Millisecond
			if r.Final || r.Code != http.StatusTooManyRequests || !strings.Contains(r.Message, "earlier writes") || after < retryBehind || after > 3*retryBehind {
				t.Errorf("a write that waited in vain got %v", r)
			}
		}
		// The last of those that waited just as long as they may is there in time or not.
		if ok < served || ok > served+1 || abandoned.Load() != 0 || int(made.Load()) != ok+1 {
			t.Errorf("%d writes went through in the time of %d, with %d requests, of which %d were given up", ok, served, made.Load()-1, abandoned.Load())
		}
		if got := a.Call(t.Context(), "n1", &wire.Call{Verb: "get", Kind: "pods", Namespace: "shop", Name: "till"}); got.Code != http.StatusCreated {
			t.Errorf("a call got %v", got)
		}
	})
}

// What waits is compared with the object as it is when its turn comes, or it would meet a conflict.
func TestAWriteIsComparedWhenItsTurnComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := make(chan struct{})
		var body string
		cache := objects{podKey: boundPod("u1", "1")}
		a, _, _ := newApplier(t, cache, func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodDelete {
				<-first
				return respond(http.StatusOK, protobufType, nil), nil
			}
			b, err := io.ReadAll(r.Body)
			body = string(b)
			return accept(t, object.Pods, boundPod("u1", "9")), err
		})
		narrow(a)
		var all sync.WaitGroup
		all.Go(func() { a.Apply(t.Context(), "n1", deleteWrite("u1")) })
		synctest.Wait()
		all.Go(func() { a.Apply(t.Context(), "n1", overlayWrite(t, "u1")) })
		synctest.Wait()
		cache[podKey] = boundPod("u1", "8")
		close(first)
		all.Wait()
		if !strings.Contains(body, `"resourceVersion":"8"`) {
			t.Errorf("expected a patch of version 8, found %s", body)
		}
	})
}

// What a Node's status waits for holds up no other write; and what is gone when its turn comes is waited for anew.
func TestANodesStatusWaitsForItsEndpointWithoutATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", ResourceVersion: "5"}}
		a, s, _ := newApplier(t, objects{podKey: boundPod("u1", "1"), {Kind: object.Nodes, Name: "n1"}: node}, func(*http.Request) (*http.Response, error) {
			return accept(t, object.Pods, boundPod("u1", "2")), nil
		})
		narrow(a)
		given := make(chan struct{})
		a.deps.Await = func(context.Context, string) bool { <-given; return true }
		a.deps.Present = func(string, *object.Overlay) error { return errors.New("it was taken back") }
		body, err := object.EncodeOverlay(&object.Overlay{Node: &corev1.NodeStatus{Phase: corev1.NodeRunning}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan *wire.Result, 1)
		go func() {
			done <- a.Apply(t.Context(), "n1", &wire.Write{Id: 1, Kind: "nodes", Name: "n1", Op: wire.Op_OP_OVERLAY, Uid: "u1", Body: body})
		}()
		synctest.Wait()
		if r := a.Apply(t.Context(), "n2", overlayWrite(t, "u1")); r.Code != http.StatusOK {
			t.Errorf("another node's write got %v", r)
		}
		close(given)
		if r := <-done; r.Final || r.Code != 0 || !strings.Contains(r.Message, "it was taken back") {
			t.Errorf("a status whose endpoint was taken back got %v", r)
		}
		if n := len(s.requests()); n != 1 {
			t.Errorf("%d requests were made, expected that of the other node alone", n)
		}
	})
}
