package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

const (
	objects = 10  // of each kind
	clients = 8   // that watch at the same time, each with a connection or in memory
	most    = 200 // watches of a client before it takes a new connection
	patient = time.Minute
)

// What may be more at the end than after the first watches. A watch that left a KiB behind would leave 3 MiB in the short run.
const (
	heapSlack       = 2 << 20  // bytes of live heap
	anonymousSlack  = 32 << 20 // bytes of anonymous memory, which the runtime gives back when it likes
	goroutineSlack  = 2
	descriptorSlack = 2
)

// watches is how many there are.
func watches(t *testing.T) int {
	text := os.Getenv("TETHER_SOAK_WATCHES")
	if text == "" {
		return 3000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("TETHER_SOAK_WATCHES: expected a number of watches, found %q", text)
	}
	return n
}

func TestWatchesAndListsLeaveNothingBehind(t *testing.T) {
	total := watches(t)
	// The API server's handlers complain of each client that goes in the middle of an event, as here many do.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	a := startAPI(t)
	// The store's history of each kind is as long as it gets.
	for i := range 2000 {
		if err := a.write(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	a.soak(t, 500)
	before := a.settled(t, used{})
	t.Logf("after 500 watches: %s", before)
	lists := a.soak(t, total)
	after := a.settled(t, before)
	t.Logf("after %d watches and %d lists more: %s", total, lists, after)
	if after.heap > before.heap+heapSlack || after.anonymous > before.anonymous+anonymousSlack ||
		after.goroutines > before.goroutines+goroutineSlack || after.descriptors > before.descriptors+descriptorSlack || after.watchers != 0 {
		t.Errorf("%d watches and %d lists left something behind: %s, expected about as much as before: %s", total, lists, after, before)
	}
}

// soak opens and drops so many watches while objects change and are listed, and returns how many lists there were.
func (a *api) soak(t *testing.T, n int) (lists int64) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	background, stop := context.WithCancel(ctx)
	defer stop()
	var opened, listed atomic.Int64
	watching, wctx := errgroup.WithContext(ctx)
	for c := range clients {
		watching.Go(func() error {
			for opened.Add(1) <= int64(n) {
				if err := a.some(wctx, c, func() bool { return opened.Add(1) <= int64(n) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		for i := 0; background.Err() == nil; i++ {
			if err := a.write(ctx, i); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		client := a.client()
		defer client.CloseIdleConnections()
		for background.Err() == nil {
			if err := a.list(ctx, client, int(listed.Add(1))); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		defer stop()
		return watching.Wait()
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return listed.Load()
}

// some is what one client does before it takes a new connection. Half of the clients are in memory, as the kubelet is.
func (a *api) some(ctx context.Context, number int, next func() bool) error {
	client, base := &http.Client{Transport: a.kubelet}, "http://edge"
	if number%2 == 0 {
		client, base = a.client(), a.base
		defer client.CloseIdleConnections()
	}
	for i := range most {
		if err := watchOnce(ctx, client, base, number+i); err != nil {
			return err
		}
		if i+1 < most && !next() {
			break
		}
	}
	return nil
}

// watchOnce opens a watch, hears of what is there and of a change after that, and drops it. Every third is dropped as soon as it is
// answered.
func watchOnce(ctx context.Context, client *http.Client, base string, i int) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	resource := []string{"pods", "configmaps"}[i%2]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/namespaces/shop/%s?watch=true&allowWatchBookmarks=true", base, resource), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("watch %s: %w", resource, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("watch %s: %s, expected 200", resource, response.Status)
	}
	if i%3 == 0 {
		return nil
	}
	decoder := json.NewDecoder(bufio.NewReader(response.Body))
	for heard := 0; ; heard++ {
		var e struct{ Type string }
		if err := decoder.Decode(&e); err != nil {
			return fmt.Errorf("watch %s, after %d events: %w", resource, heard, err)
		}
		if want := "ADDED"; heard < objects && e.Type != want {
			return fmt.Errorf("watch %s: event %d is %s, expected %s", resource, heard, e.Type, want)
		}
		if e.Type == "MODIFIED" {
			return nil
		}
	}
}

// list asks for all objects of a kind.
func (a *api) list(ctx context.Context, client *http.Client, i int) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	resource := []string{"pods", "configmaps"}[i%2]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/api/v1/"+resource, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("list %s: %w", resource, err)
	}
	defer func() { _ = response.Body.Close() }()
	var list struct{ Items []struct{} }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil || len(list.Items) != objects {
		return fmt.Errorf("list %s: %s with %d items (%w), expected %d", resource, response.Status, len(list.Items), err, objects)
	}
	return nil
}

// used is what the process has.
type used struct {
	heap, anonymous         int64 // bytes
	goroutines, descriptors int
	watchers                int // of the store
}

func (u used) String() string {
	return fmt.Sprintf("%d KiB of live heap, %d KiB anonymous, %d goroutines, %d file descriptors, %d watches of the store",
		u.heap>>10, u.anonymous>>10, u.goroutines, u.descriptors, u.watchers)
}

// settled waits until nothing ends any more: no watch is open, and no more goroutines and descriptors are there than like has, if
// it has any. What is left after a minute is what it returns.
func (a *api) settled(t *testing.T, like used) used {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patient)
	former := used{}
	for {
		u := a.used(t)
		still := u.goroutines == former.goroutines && u.descriptors == former.descriptors
		if like.goroutines > 0 {
			still = u.goroutines <= like.goroutines+goroutineSlack && u.descriptors <= like.descriptors+descriptorSlack
		}
		if u.watchers == 0 && still || time.Now().After(end) {
			return u
		}
		former = u
		<-tick.C
	}
}

func (a *api) used(t *testing.T) (u used) {
	t.Helper()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.heap, u.goroutines = int64(m.HeapAlloc), runtime.NumGoroutine()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	u.descriptors = len(files)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, "RssAnon:"); found {
			var kib int64
			if _, err := fmt.Sscan(value, &kib); err != nil {
				t.Fatal(err)
			}
			u.anonymous = kib << 10
		}
	}
	families, err := a.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "tether_store_watchers" {
			u.watchers = int(f.GetMetric()[0].GetGauge().GetValue())
		}
	}
	return u
}
