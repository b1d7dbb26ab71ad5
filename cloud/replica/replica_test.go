package replica

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const namespace = "tether-system"

// core is a CloudCore with so many sessions, which it loses to where when it moves some.
type core struct {
	*Replicas
	mu       sync.Mutex
	sessions int
	moved    int
	stop     func()
}

func (c *core) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions
}

func (c *core) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions += n
}

// run starts a CloudCore whose edges go to the one that where returns.
func run(t *testing.T, api *fake.Clientset, sessions int, move bool, where func() *core) *core {
	t.Helper()
	c := &core{sessions: sessions}
	c.Replicas = New(Config{Namespace: namespace, Address: "cloud:10000", Move: move}, Deps{Client: api, Sessions: c.count,
		Move: func(_ context.Context, n int, _ time.Duration) int {
			c.add(-n)
			where().add(n)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.moved += n
			return n
		}, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Start(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	return c
}

func leases(t *testing.T, api *fake.Clientset) int {
	t.Helper()
	l, err := api.CoordinationV1().Leases(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return len(l.Items)
}

func TestTheEdgesOfAnotherCloudCoreSpreadToOneThatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		var third atomic.Pointer[core]
		to := third.Load
		first, second := run(t, api, 1500, true, to), run(t, api, 1500, true, to)
		time.Sleep(time.Minute) // fake
		if first.count() != 1500 || second.count() != 1500 {
			t.Errorf("%d and %d sessions, expected what was even to stay", first.count(), second.count())
		}
		third.Store(run(t, api, 0, true, func() *core { return first }))
		time.Sleep(5 * time.Minute) // fake
		for i, c := range []*core{first, second, third.Load()} {
			if n := c.count(); n < 900 || n > 1100 {
				t.Errorf("CloudCore %d has %d sessions of 3000, expected a third of them", i, n)
			}
		}
		third.Load().stop()
		if n := leases(t, api); n != 2 {
			t.Errorf("%d Leases once one of three has ended, expected 2", n)
		}
		first.stop()
		second.stop()
	})
}

// Edges that know two of three CloudCores are sent from each of those to the other.
func TestEdgesThatCannotGoWhereThereAreFewerAreLeftInPeace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		var first, second atomic.Pointer[core]
		first.Store(run(t, api, 1500, true, second.Load))
		second.Store(run(t, api, 1500, true, first.Load))
		unknown := run(t, api, 0, true, nil)
		time.Sleep(50 * time.Minute) // fake
		for _, c := range []*core{first.Load(), second.Load()} {
			c.mu.Lock()
			if c.moved == 0 || c.moved > 500 {
				t.Errorf("%d edges were moved in vain, expected those of three looks at most", c.moved)
			}
			c.mu.Unlock()
			c.stop()
		}
		unknown.stop()
	})
}

func TestWhoMayNotMoveTellsTheOthersAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		full := run(t, api, 1000, false, nil)
		empty := run(t, api, 0, true, nil)
		time.Sleep(5 * time.Minute) // fake
		if full.count() != 1000 || leases(t, api) != 2 {
			t.Errorf("%d sessions and %d Leases, expected 1000 and 2", full.count(), leases(t, api))
		}
		full.stop()
		empty.stop()
	})
}

func TestACloudCoreThatMayNotKeepItsLeaseWorksAsIfItWereAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		var forbidden atomic.Bool
		forbidden.Store(true)
		api.PrependReactor("patch", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
			if forbidden.Load() {
				return true, nil, errors.New("forbidden")
			}
			return false, nil, nil
		})
		c := run(t, api, 1000, true, nil)
		time.Sleep(time.Minute) // fake
		synctest.Wait()
		if n := leases(t, api); n != 0 {
			t.Errorf("%d Leases, expected none", n)
		}
		forbidden.Store(false)
		time.Sleep(every) // fake
		synctest.Wait()
		if n := leases(t, api); n != 1 {
			t.Errorf("%d Leases once it may, expected 1", n)
		}
		c.stop()
	})
}

// What a CloudCore left behind that was killed goes, and who only slept so long comes again.
func TestALeaseThatNobodyRenewsIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		var dead atomic.Pointer[string] // the name of its Lease
		api.PrependReactor("delete", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
			d := a.(clienttesting.DeleteAction)
			if name := dead.Load(); name != nil && d.GetName() == *name && (d.GetDeleteOptions().Preconditions == nil || d.GetDeleteOptions().Preconditions.ResourceVersion == nil) {
				t.Error("the Lease is deleted whatever became of it meanwhile: one that was renewed since would be, too")
			}
			return false, nil, nil
		})
		api.PrependReactor("patch", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if name := dead.Load(); name != nil && a.(clienttesting.PatchAction).GetName() == *name {
				return true, nil, errors.New("it is dead")
			}
			return false, nil, nil
		})
		killed := run(t, api, 1, true, nil)
		time.Sleep(time.Minute) // fake
		dead.Store(&killed.name)
		other := run(t, api, 1, true, nil)
		time.Sleep(forgotten - time.Minute) // fake
		if n := leases(t, api); n != 2 {
			t.Errorf("%d Leases before the time is over, expected 2", n)
		}
		time.Sleep(2 * time.Minute) // fake
		if n := leases(t, api); n != 1 {
			t.Errorf("%d Leases, expected the one that is renewed", n)
		}
		dead.Store(nil)
		time.Sleep(2 * every) // fake
		if n := leases(t, api); n != 2 {
			t.Errorf("%d Leases once it is awake, expected 2", n)
		}
		killed.stop()
		other.stop()
	})
}

// Sending edges away takes as long as it takes: the others go on hearing of this CloudCore.
func TestWhoSendsEdgesAwayIsNotTakenForGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := fake.NewClientset()
		empty := run(t, api, 0, true, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		slow := New(Config{Namespace: namespace, Move: true}, Deps{Client: api, Sessions: func() int { return 1000 },
			Move: func(ctx context.Context, _ int, _ time.Duration) int { <-ctx.Done(); return 1 },
			Log:  slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
		go func() { done <- slow.Start(ctx) }()
		time.Sleep(time.Minute) // fake
		for range 300 {
			time.Sleep(time.Second) // fake
			empty.Replicas.mu.Lock()
			n, _, plain := empty.peers.state(time.Now())
			empty.Replicas.mu.Unlock()
			if n != 1 || !plain {
				t.Fatalf("the other one sees %d, plain %t, expected one that runs", n, plain)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		empty.stop()
	})
}
