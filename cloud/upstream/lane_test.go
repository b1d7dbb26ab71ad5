package upstream

import (
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
