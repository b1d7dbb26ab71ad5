package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
)

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

type objects map[object.Key]object.Object

func (o objects) Object(k object.Key) (object.Object, bool) { got, ok := o[k]; return got, ok }
func (o objects) Keys(kind object.ID) (keys []object.Key) {
	for k := range o {
		if k.Kind == kind {
			keys = append(keys, k)
		}
	}
	return keys
}
func (objects) WaitSynced(context.Context) error                       { return nil }
func (objects) Follow([]object.ID, func([]object.Key)) (cancel func()) { return func() {} }

func newKeeper(t *testing.T, cache objects) (*Keeper, *manualClock) {
	t.Helper()
	clock := &manualClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	client := fake.NewClientset()
	client.PrependReactor("create", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		// The fake gives objects no resourceVersion, without which a Lease counts as absent.
		a.(clienttesting.CreateAction).GetObject().(*coordinationv1.Lease).ResourceVersion = "1"
		return false, nil, nil
	})
	k, err := New(Config{}, Deps{Client: client, Cache: cache, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Clock: clock, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.leases.ShutDown(); k.nodes.ShutDown(); k.pods.ShutDown() })
	return k, clock
}

// renew does what a worker does and says whether the Lease was renewed.
func renew(t *testing.T, k *Keeper) (renewed bool, again time.Duration) {
	t.Helper()
	before := counter(t, k.m.renewals)
	again, err := k.syncLease(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	return counter(t, k.m.renewals) > before, again
}

func counter(t *testing.T, c prometheus.Metric) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// TestWhenANodeWasLastHeardOfIsItsOwnWord: a Lease that CloudCore goes on renewing for a while says nothing of the edge.
func TestWhenANodeWasLastHeardOfIsItsOwnWord(t *testing.T) {
	k, clock := newKeeper(t, nil)
	if at := k.LastHeard("n1"); !at.IsZero() {
		t.Errorf("a node that nobody knows was heard of at %s", at)
	}
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	clock.now = clock.now.Add(10 * time.Second)
	k.Alive("n1", "s1", 0, 15*time.Second)
	last := clock.now
	for range 3 { // within the ping interval and the grace
		clock.now = clock.now.Add(16 * time.Second)
		renew(t, k)
	}
	if at := k.LastHeard("n1"); !at.Equal(last) {
		t.Errorf("last heard of at %s, want %s", at, last)
	}
	k.Disconnected("n1", "s1")
	if at := k.LastHeard("n1"); !at.Equal(last) {
		t.Errorf("once its session is over: last heard of at %s, want %s", at, last)
	}
	// Another CloudCore has held it since.
	later := clock.now.Add(10 * time.Minute)
	k.mu.Lock()
	k.records["n1"].renewed = later
	k.mu.Unlock()
	if at := k.LastHeard("n1"); !at.Equal(later) {
		t.Errorf("held elsewhere since: last heard of at %s, want %s", at, later)
	}
}

func TestALeaseIsRenewedAtOnceAndThenEvery15To20Seconds(t *testing.T) {
	k, clock := newKeeper(t, nil)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	for range 100 {
		renewed, again := renew(t, k)
		if !renewed || again < 15*time.Second || again > 20*time.Second {
			t.Fatalf("renewed %v, again in %s; expected true and 15 to 20 s", renewed, again)
		}
		clock.add(again - time.Second)
		k.Alive("n1", "s1", time.Second, 15*time.Second)
		if renewed, again := renew(t, k); renewed || again != time.Second {
			t.Fatalf("a second early: renewed %v, again in %s; expected false and 1 s", renewed, again)
		}
		clock.add(time.Second)
	}
	k.Disconnected("n1", "s1")
	if renewed, again := renew(t, k); renewed || again != 0 {
		t.Errorf("after the session's end: renewed %v, again in %s", renewed, again)
	}
}

// Edges that come back together claim their Leases one after the other, and all of them before a Lease would lapse.
func TestAStormOfSessionsSpreadsItsClaims(t *testing.T) {
	for _, n := range []int{40, 1000, 10000} {
		k, clock := newKeeper(t, nil)
		k.mu.Lock()
		for i := range n {
			k.record(fmt.Sprint("n", i)) // known from their Leases
		}
		k.mu.Unlock()
		for i := range n {
			k.Connected(fmt.Sprint("n", i), "s", "a:1", transport.WebSocket)
		}
		now, first, last := 0, claimWithin, time.Duration(0)
		for i := range n {
			wait := k.beforeClaim(fmt.Sprint("n", i))
			if wait <= 0 {
				now++
			} else {
				first = min(first, wait)
			}
			last = max(last, wait)
		}
		if first < claimPause {
			t.Errorf("of %d sessions one claims after %s, which handshakes need", n, first)
		}
		if want := min(n, claimsAtOnce); now < want || now > want+1 {
			t.Errorf("of %d sessions %d claim at once, want %d", n, now, want)
		}
		if most := claimWithin + 2*time.Second; last > most || n > 500 && last < claimWithin/2 {
			t.Errorf("of %d sessions the last claims after %s, want up to %s", n, last, most)
		}
		// Nothing is owed for long.
		clock.add(time.Minute)
		k.Connected("late", "s", "a:1", transport.WebSocket)
		if wait := k.beforeClaim("late"); wait > 0 {
			t.Errorf("a minute after a storm of %d a session waits %s for its claim", n, wait)
		}
	}
}

func TestAWedgedKubeletBehindALiveLinkIsNotRenewed(t *testing.T) {
	k, clock := newKeeper(t, nil)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renew(t, k)
	alive := func(age time.Duration) {
		clock.add(20 * time.Second)
		k.Alive("n1", "s1", age, 30*time.Second)
	}
	alive(70 * time.Second) // ping interval + 40 s
	if renewed, _ := renew(t, k); !renewed {
		t.Error("not renewed though the kubelet's renewal is just recent enough")
	}
	alive(71 * time.Second)
	if renewed, again := renew(t, k); renewed || again != 0 {
		t.Errorf("renewed %v, again in %s, though the kubelet is wedged", renewed, again)
	}
	if got := counter(t, k.m.stale); got != 1 {
		t.Errorf("tether_node_kubelet_stale_total = %v, expected 1", got)
	}
	k.Alive("n1", "s1", time.Second, 30*time.Second)
	if k.leases.Len() == 0 {
		t.Error("a kubelet that renews again does not wake the lease")
	}
	if renewed, _ := renew(t, k); !renewed {
		t.Error("not renewed though the kubelet is back")
	}
}

func TestAKubeletThatNeverRenewedHasTimeToStart(t *testing.T) {
	k, clock := newKeeper(t, nil)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renew(t, k)
	clock.add(54 * time.Second)
	k.Alive("n1", "s1", -1, 15*time.Second)
	if renewed, _ := renew(t, k); !renewed {
		t.Error("not renewed 54 s after the connection")
	}
	clock.add(2 * time.Second)
	k.Alive("n1", "s1", -1, 15*time.Second)
	clock.add(20 * time.Second)
	if renewed, _ := renew(t, k); renewed {
		t.Error("still renewed though the kubelet never came up")
	}
}

func TestReportsOfAnOldSessionAreIgnored(t *testing.T) {
	k, clock := newKeeper(t, nil)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renew(t, k)
	k.Connected("n1", "s2", "a:1", transport.WebSocket)
	if renewed, _ := renew(t, k); !renewed {
		t.Error("a new session does not renew at once")
	}
	k.Disconnected("n1", "s1")
	clock.add(20 * time.Second)
	k.Alive("n1", "s1", time.Hour, 15*time.Second)
	if renewed, _ := renew(t, k); !renewed {
		t.Error("an old session's end or report stopped the renewals of the new one")
	}
}

func TestARenewalIsNeverEarlierThanTheLast(t *testing.T) {
	last := time.Date(2026, 1, 1, 0, 0, 0, 123456000, time.UTC)
	for now, want := range map[time.Time]time.Time{
		last.Add(-time.Hour):                    last.Add(time.Microsecond),
		last:                                    last.Add(time.Microsecond),
		last.Add(999 * time.Nanosecond):         last.Add(time.Microsecond),
		last.Add(time.Second + time.Nanosecond): last.Add(time.Second),
	} {
		if got := nextRenewal(now, last); !got.Equal(want) {
			t.Errorf("at %s after %s: %s, expected %s", now, last, got, want)
		}
	}
}

// Who marked a lease by mistake takes that back, and the node lives.
func TestARemovalThatIsTakenBackIsSeen(t *testing.T) {
	k, clock := newKeeper(t, objects{})
	leases := k.deps.Client.CoordinationV1().Leases(LeaseNamespace)
	lease := &coordinationv1.Lease{}
	lease.Name, lease.ResourceVersion, lease.Annotations = "n1", "1", map[string]string{AnnotationRemoved: "true"}
	if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renewed, again := renew(t, k)
	if renewed || again <= 0 {
		t.Fatalf("renewed %t, looked at again in %s; expected no renewal and another look", renewed, again)
	}
	lease.Annotations = nil
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	clock.add(again)
	k.Alive("n1", "s1", 0, time.Second)
	if renewed, _ := renew(t, k); !renewed {
		t.Error("the lease is not renewed though the annotation is gone")
	}
	// The Node that was deleted meanwhile is made again.
	if n := k.nodes.Len(); n == 0 {
		t.Error("nobody looks whether the Node is there")
	}
}

// A removal is forgotten with the node; who takes it back and connects again gets its Node back.
func TestANodeWhoseRemovalIsTakenBackIsMadeAgain(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{ProviderID: "tether://n1"}}
	cache := objects{{Kind: object.Nodes, Name: "n1"}: n}
	k, _ := newKeeper(t, cache)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	renew(t, k) // with the copy of the Node
	leases := k.deps.Client.CoordinationV1().Leases(LeaseNamespace)
	mark := func(removed bool) {
		l, err := leases.Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		delete(l.Annotations, AnnotationRemoved)
		if removed {
			l.Annotations[AnnotationRemoved] = "true"
		}
		if _, err := leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	k.Disconnected("n1", "s1")
	mark(true)
	delete(cache, object.Key{Kind: object.Nodes, Name: "n1"})
	if _, err := k.syncNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	mark(false)
	for k.nodes.Len() > 0 { // what was asked for before
		item, _ := k.nodes.Get()
		k.nodes.Done(item)
	}
	k.Connected("n1", "s2", "a:1", transport.WebSocket)
	if k.nodes.Len() == 0 {
		t.Fatal("nobody looks whether the Node is there")
	}
	if _, err := k.syncNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if _, err := k.deps.Client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err != nil {
		t.Errorf("the Node was not made again: %v", err)
	}
}

// A lease that somebody deleted is made again with all that says who holds the node.
func TestADeletedLeaseIsClaimedAgain(t *testing.T) {
	k, clock := newKeeper(t, objects{})
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	_, again := renew(t, k)
	leases := k.deps.Client.CoordinationV1().Leases(LeaseNamespace)
	if err := leases.Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	clock.add(again)
	k.Alive("n1", "s1", 0, time.Second)
	if _, err := k.syncLease(t.Context(), "n1"); !errors.Is(err, errChanged) {
		t.Fatalf("got %v, expected the write to find nothing", err)
	}
	if renewed, _ := renew(t, k); !renewed {
		t.Fatal("the lease is not made again")
	}
	l, err := leases.Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil || l.Annotations[AnnotationSession] != "s1" || l.Annotations[AnnotationReplica] != "a:1" {
		t.Errorf("the lease has annotations %v, %v", l.Annotations, err)
	}
}

func TestACopyThatCouldNotBeWrittenIsWrittenLater(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a"}}, Spec: corev1.NodeSpec{ProviderID: "tether://n1"}}
	cache := objects{{Kind: object.Nodes, Name: "n1"}: n}
	k, _ := newKeeper(t, cache)
	k.Connected("n1", "s1", "a:1", transport.WebSocket)
	if _, err := k.syncLease(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	copied := func() string {
		l, err := k.deps.Client.CoordinationV1().Leases(LeaseNamespace).Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return l.Annotations[AnnotationNode]
	}
	if !strings.Contains(copied(), `"zone":"a"`) {
		t.Fatalf("copy %s", copied())
	}
	n.Labels["zone"] = "b"
	if _, err := k.syncNode(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	change, _, _ := k.plan("n1") // a write that fails: planned, never written
	if change == nil || change.copy == nil {
		t.Fatal("a changed Node plans no copy")
	}
	if _, err := k.syncLease(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(copied(), `"zone":"b"`) {
		t.Errorf("copy %s, expected the Node as it is now", copied())
	}
}

func TestACopyGivesTheNodeBack(t *testing.T) {
	now := metav1.Now()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a"},
			Annotations: map[string]string{"owner": "x", corev1.LastAppliedConfigAnnotation: "{}", drill.AnnotationState: "{}", "big": strings.Repeat("x", maxAnnotation+1)}},
		Spec: corev1.NodeSpec{ProviderID: "tether://n1", Unschedulable: true, PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"},
			Taints: []corev1.Taint{{Key: "z", Effect: "NoSchedule", TimeAdded: &now}, {Key: "a", Value: "1", Effect: "NoExecute"}, {Key: corev1.TaintNodeNotReady, Effect: "NoExecute"}}},
	}
	raw, err := makeCopy(n)
	if err != nil {
		t.Fatal(err)
	}
	got, err := restore("n1", raw)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: n.Labels, Annotations: map[string]string{"owner": "x"}},
		Spec: corev1.NodeSpec{ProviderID: "tether://n1", Unschedulable: true, PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"},
			Taints: []corev1.Taint{{Key: "a", Value: "1", Effect: "NoExecute"}, {Key: "z", Effect: "NoSchedule"}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"", "{", `{"providerID":"aws://x"}`} {
		if _, err := restore("n1", []byte(bad)); err == nil {
			t.Errorf("a Node was made of the copy %q", bad)
		}
	}
}

func TestACopyIsBounded(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Annotations: map[string]string{}}, Spec: corev1.NodeSpec{ProviderID: "tether://n1"}}
	for i := range 60 {
		n.Annotations[strings.Repeat("a", i+1)] = strings.Repeat("<", 4000) // six bytes each in JSON
	}
	raw, err := makeCopy(n)
	if err != nil || len(raw) > maxCopy {
		t.Errorf("a copy of %d bytes, limit %d (%v)", len(raw), maxCopy, err)
	}
	n.Labels = map[string]string{"a": strings.Repeat("x", maxCopy)}
	if _, err := makeCopy(n); err == nil {
		t.Error("a copy over the limit is no error")
	}
}

func TestIntervalsThatCannotKeepALeaseAreRefused(t *testing.T) {
	_, err := New(Config{RenewInterval: 25 * time.Second}, Deps{Client: fake.NewClientset(), Cache: objects{},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Registerer: prometheus.NewRegistry()})
	if err == nil || !strings.Contains(err.Error(), "25s") {
		t.Errorf("got %v, expected a refusal that names the interval", err)
	}
}
