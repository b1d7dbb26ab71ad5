package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// A slow satellite link: each attempt takes 20 s. Those that begin later do not end those that began earlier.
func TestNewAttemptsGiveNoneUpAndTheFirstToFinishWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var starts []time.Duration
		servers := map[string]int{}
		ended := 0
		var hub *cloud
		l, stop := start(t, &fakeStore{}, func(ctx context.Context, way Way) (transport.Stream, error) {
			mu.Lock()
			n := len(starts)
			starts = append(starts, time.Since(began))
			servers[way.Server]++
			mu.Unlock()
			if n == 1 {
				select {
				case <-time.After(20 * time.Second):
					edge, c := newCloud(t)
					hub = c
					return edge, nil
				case <-ctx.Done():
				}
			}
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			ended++
			return nil, ctx.Err()
		})
		time.Sleep(25 * time.Second) // fake: nothing waits for real
		synctest.Wait()
		mu.Lock()
		if hub == nil {
			t.Fatalf("the attempt that took 20 s did not win; attempts began at %v", starts)
		}
		for i := 1; i < len(starts); i++ {
			low, high := attemptMin, attemptMax
			if i <= quickAttempts {
				low, high = low/3, high/3
			}
			if gap := starts[i] - starts[i-1]; gap < low || gap > high {
				t.Errorf("attempt %d began %s after the one before it, want %s to %s", i+1, gap, low, high)
			}
		}
		if len(starts) > maxAttempts || ended != len(starts)-1 || len(servers) != 2 {
			t.Errorf("%d attempts at %v, %d ended: want at most %d, at both servers, and all but the winner ended", len(starts), servers, ended, maxAttempts)
		}
		mu.Unlock()
		hub.welcome()
		synctest.Wait()
		if !l.Status().Connected {
			t.Errorf("got %+v, want connected", l.Status())
		}
		stop()
		_ = hub.Close()
	})
}

func TestAttemptsUnderWayAreBoundedAndEachEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		open, most := 0, 0
		_, stop := start(t, &fakeStore{}, func(ctx context.Context, _ Way) (transport.Stream, error) {
			began := time.Now()
			mu.Lock()
			open++
			most = max(most, open)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			open--
			if life := time.Since(began); life > attemptLife {
				t.Errorf("an attempt lived for %s, want at most %s", life, attemptLife)
			}
			return nil, ctx.Err()
		})
		time.Sleep(time.Hour) // fake
		stop()
		if most > maxAttempts || most < maxAttempts/2 || open != 0 {
			t.Errorf("up to %d attempts were under way, and %d are left: want at most %d, and none", most, open, maxAttempts)
		}
	})
}

// A server whose kernel took the connection is busy with others, or hangs: behind it no queue of one edge's own attempts grows, and a
// server that has not taken one is tried as ever.
func TestAServerThatTookAConnectionIsLeftInPeace(t *testing.T) {
	for name, c := range map[string]struct {
		busy        map[string]bool
		most, least map[string]int // attempts in attemptLife
	}{
		"both": {map[string]bool{"one:1": true, "two:1": true}, map[string]int{"one:1": 5, "two:1": 5}, map[string]int{"one:1": 3, "two:1": 3}},
		"one":  {map[string]bool{"one:1": true}, map[string]int{"one:1": 5, "two:1": maxAttempts}, map[string]int{"one:1": 2, "two:1": 10}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			dialled := map[string]int{}
			_, stop := start(t, &fakeStore{}, func(ctx context.Context, way Way) (transport.Stream, error) {
				mu.Lock()
				dialled[way.Server]++
				mu.Unlock()
				if c.busy[way.Server] {
					if err := transport.Arrived(ctx); err != nil {
						return nil, err
					}
				}
				<-ctx.Done()
				return nil, ctx.Err()
			})
			time.Sleep(attemptLife) // fake
			mu.Lock()
			for server, n := range dialled {
				if n < c.least[server] || n > c.most[server] {
					t.Errorf("%s busy: %d attempts at %s in %s, want %d to %d", name, n, server, attemptLife, c.least[server], c.most[server])
				}
			}
			mu.Unlock()
			stop()
		})
	}
}

// Attempts that a dead network held up get through all together when it is back: the server has to do with one of each edge.
func TestOfAttemptsThatArriveTogetherTheServerSeesOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage = 29 * time.Second
		begun := time.Now()
		var mu sync.Mutex
		held := 0
		shaken := make(chan struct{}, maxAttempts)
		_, stop := start(t, &fakeStore{}, func(ctx context.Context, way Way) (transport.Stream, error) {
			mu.Lock()
			held++
			mu.Unlock()
			back := time.NewTimer(time.Until(begun.Add(outage)))
			defer back.Stop()
			select {
			case <-back.C:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if err := transport.Arrived(ctx); err != nil {
				return nil, err
			}
			shaken <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		<-shaken
		<-shaken
		synctest.Wait() // all that were held up are through
		mu.Lock()
		if n := len(shaken); held < maxAttempts/2 || n != 0 {
			t.Errorf("of %d attempts at two servers %d began a handshake, want one with each", held, n+2)
		}
		mu.Unlock()
		stop()
	})
}

// Once a server took a connection, those that the network still holds up would only come later than that one.
func TestOnceAServerTookAConnectionTheOthersAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage = 8 * time.Second // fewer than maxAttempts begin in it
		begun := time.Now()
		var mu sync.Mutex
		open, before := map[string]int{}, 0
		taken := make(chan struct{}, maxAttempts)
		_, stop := start(t, &fakeStore{}, func(ctx context.Context, way Way) (transport.Stream, error) {
			mu.Lock()
			open[way.Server]++
			mu.Unlock()
			defer func() {
				mu.Lock()
				open[way.Server]--
				mu.Unlock()
			}()
			if way.Server == "one:1" && time.Since(begun) >= outage {
				mu.Lock()
				if before == 0 {
					before = open["one:1"]
				}
				mu.Unlock()
				if err := transport.Arrived(ctx); err != nil {
					return nil, err
				}
				taken <- struct{}{}
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		<-taken
		synctest.Wait()
		mu.Lock()
		if before < 3 {
			t.Errorf("%d attempts were under way at the server when it was back, want some that were held up", before)
		}
		if open["one:1"] != 1 || open["two:1"] < 2 {
			t.Errorf("attempts under way once one was taken: %v, want that one alone, and those at the other server to go on", open)
		}
		mu.Unlock()
		stop()
	})
}

// TestAServerThatClosesWhatItTookWhileOneWaitsIsLeftInPeaceForLonger: it has more connections than it can keep. Ten thousand edges that
// each tried again every three seconds kept one so busy with closing them that it came to nothing else.
func TestAServerThatClosesWhatItTookWhileOneWaitsIsLeftInPeaceForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n, waited := 0, make(chan time.Duration, 1)
		_, stop := start(t, &fakeStore{}, func(ctx context.Context, way Way) (transport.Stream, error) {
			if way.Server != "one:1" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			mu.Lock()
			n++
			first := n == 1
			mu.Unlock()
			if err := transport.Arrived(ctx); err != nil {
				return nil, err
			}
			if !first {
				return nil, &transport.RefusedError{Err: io.EOF}
			}
			began := time.Now()
			<-ctx.Done()
			waited <- time.Since(began)
			return nil, ctx.Err()
		})
		if life := <-waited; life != queuedLife {
			t.Errorf("the one that waits for its turn was given up after %s, want %s", life, queuedLife)
		}
		mu.Lock()
		if n < 4 || n > 10 {
			t.Errorf("%d attempts in %s at a server that closes all but the first, want 4 to 10", n, queuedLife)
		}
		mu.Unlock()
		stop()
	})
}

// dials counts tries with their times, and answers each by the same error.
func dials(t *testing.T, err error, life time.Duration) []time.Time {
	var mu sync.Mutex
	var times []time.Time
	_, stop := start(t, &fakeStore{}, func(context.Context, Way) (transport.Stream, error) {
		mu.Lock()
		defer mu.Unlock()
		times = append(times, time.Now())
		return nil, err
	})
	time.Sleep(life) // fake
	stop()
	return times
}

func TestAnUnwillingServerIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := dials(t, &transport.RefusedError{Err: errors.New("tls: unknown certificate authority")}, time.Hour)
		if n := len(times); n < 60 || n > 300 {
			t.Errorf("%d tries in an hour of refusals, want about 120", n)
		}
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); gap > refusalMax+time.Second {
				t.Errorf("the edge paused for %s, want at most about %s", gap, refusalMax)
			}
		}
		times = dials(t, &transport.RefusedError{Status: 503, RetryAfter: 2 * time.Minute, Err: errors.New("full")}, time.Hour)
		if n := len(times); n < 58 || n > 62 {
			t.Errorf("%d tries in an hour of two servers with Retry-After: 120, want 30 of each", n)
		}
	})
}

func TestALostNetworkIsTriedAgainWithinSecondsForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		times := dials(t, errors.New("network is unreachable"), time.Hour)
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); gap > attemptMax {
				t.Fatalf("no try for %s without a network, want one every %s at least", gap, attemptMax)
			}
		}
		if len(times) < 1200 {
			t.Errorf("%d tries in an hour", len(times))
		}
	})
}

func TestTheHubSaysWhenToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var times []time.Time
		_, stop := start(t, &fakeStore{}, func(context.Context, Way) (transport.Stream, error) {
			times = append(times, time.Now())
			edge, c := newCloud(t)
			go func() {
				c.welcome()
				c.send(&wire.Frame{Body: &wire.Frame_Goodbye{Goodbye: &wire.Goodbye{Reason: wire.Reason_REASON_DRAIN, ComeBackMs: 7000}}})
				for range c.got {
				}
				_ = c.Close()
			}()
			return edge, nil
		})
		time.Sleep(8 * time.Second) // fake
		stop()
		if len(times) != 2 || times[1].Sub(times[0]) < 7*time.Second {
			t.Errorf("the edge dialled at %v, want twice, 7 s apart", times)
		}
	})
}

// connected returns a session with a store that commits as told.
func connected(t *testing.T, s *fakeStore, change ...func(*Deps)) (*Link, *cloud, func()) {
	edge, hub := newCloud(t)
	first := make(chan transport.Stream, 1)
	first <- edge
	l, stop := start(t, s, func(ctx context.Context, _ Way) (transport.Stream, error) {
		select {
		case e := <-first:
			return e, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, change...)
	hub.welcome()
	return l, hub, func() { stop(); _ = hub.Close() }
}

// What runs beside a session begins with it, may ask the cloud at once, and is over when the next one begins.
func TestWhatRunsBesideASessionAsksAtOnceAndEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		links := make(chan *Link, 1)
		began, ended := make(chan error, 1), false
		l, hub, stop := connected(t, &fakeStore{}, func(d *Deps) {
			d.Connected = func(ctx context.Context) {
				_, err := (<-links).Call(ctx, object.Call{Verb: "create", Key: object.Key{Kind: object.ServiceAccounts, Namespace: "shop", Name: "a"}, Subresource: "token"})
				began <- err
				<-ctx.Done()
				ended = true
			}
		})
		links <- l
		call := (<-hub.got).GetCall()
		if call == nil || call.Subresource != "token" {
			t.Fatalf("the first frame after the welcome is %v, want the call", call)
		}
		hub.send(&wire.Frame{Body: &wire.Frame_Reply{Reply: &wire.Reply{Id: call.Id, Code: 201}}})
		if err := <-began; err != nil {
			t.Errorf("the call: %v", err)
		}
		_ = hub.Close()
		synctest.Wait()
		if !ended {
			t.Error("it goes on without its session")
		}
		stop()
	})
}

func batch(seq uint64, items ...*wire.Item) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Batch{Batch: &wire.Batch{Seq: seq, Items: items}}}
}

func TestAnAckFollowsTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		commit := make(chan error)
		s := &fakeStore{commit: func([]Incoming) error { return <-commit }}
		l, hub, stop := connected(t, s)
		hub.send(batch(1, &wire.Item{Kind: "pods", Name: "a", ResourceVersion: 5}))
		hub.send(&wire.Frame{Body: &wire.Frame_Synced{Synced: &wire.Synced{Kinds: []string{"pods"}, Seq: 1}}})
		synctest.Wait()
		select {
		case f := <-hub.got:
			t.Fatalf("the commit is not over, and the edge sent %v", f)
		default:
		}
		if len(s.synced) > 0 || l.Status().Synced {
			t.Error("the sync was noted before its last batch was committed")
		}
		commit <- nil
		if f := <-hub.got; f.GetAck().GetSeq() != 1 {
			t.Errorf("after the commit the edge sent %v, want an ack of 1", f)
		}
		synctest.Wait()
		if len(s.synced) != 1 || !l.Status().Synced {
			t.Errorf("the sync was not noted: %v", s.synced)
		}
		stop()
	})
}

func TestABadBodyIsHandedOnAsBadAndStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []Incoming
		s := &fakeStore{commit: func(items []Incoming) error { got = append(got, items...); return nil }}
		_, hub, stop := connected(t, s)
		hub.send(batch(1,
			&wire.Item{Kind: "pods", Name: "bad", ResourceVersion: 5, Body: []byte("no zstd"), Compression: wire.Compression_COMPRESSION_ZSTD},
			&wire.Item{Kind: "pods", Name: "good", ResourceVersion: 6, Body: []byte("body")},
			&wire.Item{Kind: "pods", Name: "gone", ResourceVersion: 7, Cause: wire.Cause_CAUSE_NODE_GONE}))
		if f := <-hub.got; f.GetAck().GetSeq() != 1 {
			t.Errorf("got %v, want an ack", f)
		}
		if len(got) != 3 || got[0].Bad == nil || got[1].Bad != nil || string(got[1].Body) != "body" || got[2].Cause != object.CauseNodeGone {
			t.Errorf("the store got %+v", got)
		}
		stop()
	})
}

func TestADatabaseThatFailsAcknowledgesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{commit: func([]Incoming) error { return errors.New("disk full") }}
		l, hub, stop := connected(t, s)
		hub.send(batch(1, &wire.Item{Kind: "pods", Name: "a", ResourceVersion: 5}))
		for f := range hub.got {
			if f.GetAck() != nil {
				t.Errorf("a batch that was not committed was acknowledged")
			}
		}
		synctest.Wait()
		if st := l.Status(); st.Connected || !strings.Contains(st.Problem, "local database failed") || !strings.Contains(st.Problem, "disk full") {
			t.Errorf("got %+v, want a problem that names the database", st)
		}
		stop()
	})
}

// What does not fit on the disk ends no session: the rest is acknowledged, nothing counts as completely received, people
// are told, and a minute later a new session asks for what is missing (I8, I9).
func TestADiskThatIsFullStopsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{commit: func([]Incoming) error { return errors.Join(errors.New("no room"), object.ErrPartly) }}
		l, hub, stop := connected(t, s)
		hub.send(batch(1, &wire.Item{Kind: "pods", Name: "a", ResourceVersion: 5}))
		hub.send(&wire.Frame{Body: &wire.Frame_Synced{Synced: &wire.Synced{Kinds: []string{"pods"}, Seq: 1}}})
		for f := range hub.got {
			if f.GetAck().GetSeq() == 1 {
				break
			}
		}
		synctest.Wait()
		if st := l.Status(); !st.Connected || !strings.Contains(st.Problem, "no room") {
			t.Errorf("got %+v, want a link that says what is wrong", st)
		}
		s.mu.Lock()
		if len(s.synced) > 0 {
			t.Errorf("%v count as completely received", s.synced)
		}
		s.mu.Unlock()
		begun := time.Now()
		for f := range hub.got { // until the session ends
			if ping := f.GetPing(); ping != nil && time.Since(begun) < askAgain-time.Second {
				hub.send(&wire.Frame{Body: &wire.Frame_Pong{Pong: &wire.Pong{Id: ping.Id}}})
			}
		}
		if lasted := time.Since(begun).Round(time.Second); lasted != askAgain {
			t.Errorf("the session went on for %s, expected %s", lasted, askAgain)
		}
		stop()
	})
}

// What left the outbox just before it was to be sent has no answer to wait for: a window full of it would be full for ever.
func TestWritesThatAreGoneBeforeTheyAreSentLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeStore{}
		const last = 200
		for id := uint64(1); id <= last; id++ {
			s.heads = append(s.heads, session.Head{ID: id, Key: object.Key{Kind: object.Pods, Namespace: "ns", Name: fmt.Sprint(id)}, Priority: object.PriorityPod})
		}
		s.writes = map[uint64]object.Outgoing{last: {ID: last, Key: s.heads[last-1].Key, Op: object.OpOverlay, Body: []byte("{}")}}
		_, hub, stop := connected(t, s)
		defer stop()
		time.Sleep(time.Second) // fake
		for {
			select {
			case f := <-hub.got:
				if w := f.GetWrite(); w != nil && w.Id == last {
					return
				}
			default:
				t.Fatal("the one write that is there was not sent")
			}
		}
	})
}

// TestACloudOnAThinLinkIsNotTakenForDead: an object may take minutes, in which no answer to a ping comes.
func TestACloudOnAThinLinkIsNotTakenForDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		committed := 0
		l, hub, stop := connected(t, &fakeStore{commit: func(items []Incoming) error { committed += len(items); return nil }})
		rest, err := wire.Append(nil, batch(1, &wire.Item{Kind: string(object.ConfigMaps), Namespace: "a", Name: "b", Uid: "u", ResourceVersion: 7, Body: make([]byte, 100_000)}))
		if err != nil {
			t.Fatal(err)
		}
		for len(rest) > 0 {
			n := min(len(rest), 8_000)
			if _, err := hub.Write(rest[:n]); err != nil {
				t.Fatalf("with %d bytes of the frame to come: %v", len(rest), err)
			}
			rest = rest[n:]
			<-time.After(10 * time.Second)
		}
		synctest.Wait()
		if committed != 1 || !l.Status().Connected {
			t.Errorf("%d objects are committed, want one; connected: %v", committed, l.Status().Connected)
		}
		// One that says nothing at all is still noticed.
		<-time.After(47 * time.Second)
		synctest.Wait()
		if l.Status().Connected {
			t.Error("nothing came for 47 s, and the edge takes itself for connected")
		}
		stop()
	})
}
