package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/netem"
)

// newSystemBehind brings up a system for this test alone whose cable goes through a relay. Its edgecore is not yet
// started: it is to meet the network as the settings make it.
func newSystemBehind(t *testing.T, bothWays netem.Settings) (*system, *netem.Relay) {
	t.Helper()
	var relay *netem.Relay
	p, err := bringUpCloud(t.Context(), cluster.ForTest(t), cluster.EdgeConfig{Name: "edge-1", Split: true}, func(h *cluster.EdgeHost) error {
		if err := errors.Join(netem.DisableOffload(h.RootLink()), h.Inside(false, func() error { return netem.DisableOffload("eth0") })); err != nil {
			return err
		}
		root, edge := h.RelayLinks()
		// It joins over a good network.
		relay, _ = netem.ForTest(t, netem.Config{Root: root, Edge: edge, Seed: 3})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &system{parts: p, t: t}
	s.must(relay.SetBoth(bothWays))
	return s, relay
}

// TestASatelliteLinkWithHeavyLossConnectsAndSyncs: a link of 800 ms round trip that loses a tenth of all packets is
// slow, but the node comes up over it and runs pods; when the link gets better nothing is restarted.
func TestASatelliteLinkWithHeavyLossConnectsAndSyncs(t *testing.T) {
	const delay, loss, deadline = 400 * time.Millisecond, 0.1, 3 * time.Minute
	s, relay := newSystemBehind(t, netem.Settings{Delay: delay, Loss: loss})
	ctx := t.Context()
	began := time.Now()
	s.must(s.edge.StartCore(ctx))
	s.must(s.edge.WaitReady(ctx, deadline))
	t.Logf("the node was Ready after %s", time.Since(began).Round(time.Second))
	s.eventuallyStatus(deadline, "the edge to be in step with the cloud", `"synced":true`)

	began = time.Now()
	s.createPod(demoPod("far"))
	far := s.waitPod("far", deadline, podReady)
	t.Logf("the pod was Ready after %s", time.Since(began).Round(time.Second))
	s.answers(far, "/healthz", "")
	s.wasBad(relay, 2*delay)

	s.must(relay.SetBoth(netem.Settings{}))
	before := s.containers()
	s.runPod("near")
	s.sameContainers(before)
}

// wasBad proves that the network was what the test says: a connection takes a round trip, and frames were lost.
func (s *system) wasBad(relay *netem.Relay, roundTrip time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	conn, err := s.edge.DialContext(ctx, "tcp", s.Server())
	s.must(err)
	_ = conn.Close()
	if took := time.Since(began); took < roundTrip {
		s.t.Errorf("a connection took %s, expected at least the round trip of %s", took, roundTrip)
	}
	for _, way := range []netem.Direction{netem.Up, netem.Down} {
		if c := relay.Counters(way); c.Lost == 0 || c.Sent == 0 || c.Refused+c.Missed > 0 {
			s.t.Errorf("%s: expected frames sent and frames lost, none refused or missed, found %+v", way, c)
		}
	}
}

// TestABlackHoleIsNoticedByBothEndsAndTheLinkResumes: the network swallows what it takes, in both directions or in
// one, and no end is told. Each notices by three pings without an answer, and the link is back when the network is.
func TestABlackHoleIsNoticedByBothEndsAndTheLinkResumes(t *testing.T) {
	s, relay := newSystemBehind(t, netem.Settings{})
	s.must(s.edge.StartCore(t.Context()))
	s.must(s.edge.WaitReady(t.Context(), 2*time.Minute))
	p := s.runPod("steady")
	before := s.containers()
	hole := netem.Settings{Loss: 1}
	for _, c := range []struct {
		name     string
		up, down netem.Settings
	}{
		{"both ways", hole, hole},
		{"only up", hole, netem.Settings{}},
		{"only down", netem.Settings{}, hole},
	} {
		s.eventuallyStatus(time.Minute, "the link to be in step", `"synced":true`)
		s.must(errors.Join(relay.Set(netem.Up, c.up), relay.Set(netem.Down, c.down)))
		// tests/stack sets a ping each 5 s: three of them and a second, and the rest for a busy machine. TCP itself
		// would take a quarter of an hour.
		began := time.Now()
		const noticed = 3*5*time.Second + time.Second + 10*time.Second
		s.eventuallyStatus(noticed, "the edge to notice a black hole "+c.name, `"connected":false`)
		s.eventuallySessions(noticed-time.Since(began), "the hub to notice a black hole "+c.name, 0)
		t.Logf("a black hole %s was noticed within %s", c.name, time.Since(began).Round(time.Second))
		s.answers(p, "/healthz", "")

		began = time.Now()
		s.must(relay.SetBoth(netem.Settings{}))
		s.eventuallySessions(time.Minute, "the session to be back after a black hole "+c.name, 1)
		s.eventuallyStatus(time.Minute, "the edge to be in step after a black hole "+c.name, `"synced":true`)
		t.Logf("the link was back after %s", time.Since(began).Round(100*time.Millisecond))
	}
	s.runPod("after")
	s.sameContainers(before)
}

// eventuallySessions waits until CloudCore's hub has so many sessions.
func (s *system) eventuallySessions(timeout time.Duration, what string, want int) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, what, func() error {
		found := 0
		for _, p := range []string{"websocket", "quic"} {
			n, err := s.cloudMetric(`tether_hub_sessions{protocol="` + p + `"}`)
			if err != nil {
				return err
			}
			found += n
		}
		if found != want {
			return fmt.Errorf("expected %d sessions, found %d", want, found)
		}
		return nil
	})
}

// cloudMetric reads one of CloudCore's metrics, by its name and labels.
func (s *system) cloudMetric(name string) (int, error) {
	response, err := http.Get(s.CloudMetrics())
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	_, found, ok := strings.Cut(string(body), "\n"+name+" ")
	if !ok {
		return 0, fmt.Errorf("CloudCore has no metric %s", name)
	}
	found, _, _ = strings.Cut(found, "\n")
	return strconv.Atoi(found)
}

// TestWhereUDPIsDroppedTheLinkFallsBack: under auto the link is QUIC's where UDP passes, and WebSocket's where it does not.
func TestWhereUDPIsDroppedTheLinkFallsBack(t *testing.T) {
	s, relay := newSystemBehind(t, netem.Settings{NoUDP: true})
	s.must(s.edge.SetProtocol(v1alpha1.ProtocolAuto))
	began := time.Now()
	s.must(s.edge.StartCore(t.Context()))
	s.eventuallyStatus(30*time.Second, "a link over WebSocket", `"protocol":"websocket"`)
	t.Logf("the link was up %s after edgecore was started", time.Since(began).Round(100*time.Millisecond))
	s.must(s.edge.WaitReady(t.Context(), 2*time.Minute))
	s.annotated("websocket")

	// A new edgecore remembers nothing, and finds UDP passing.
	s.must(relay.SetBoth(netem.Settings{}))
	s.waitCore(s.killCore())
	s.eventuallyStatus(30*time.Second, "a link over QUIC", `"protocol":"quic"`)
	s.annotated("quic")
	p := s.runPod("steady")
	before := s.containers()

	// UDP stops passing under a session that has stood.
	s.must(relay.SetBoth(netem.Settings{NoUDP: true}))
	s.eventuallyStatus(time.Minute, "WebSocket in the place of QUIC", `"protocol":"websocket"`)
	s.annotated("websocket")
	s.answers(p, "/healthz", "")
	s.sameContainers(before)
}

// TestAMoveToAnotherAddressKeepsASessionOverQUIC: the edge loses its address and gets another one. Both directions go on
// in the session of before.
func TestAMoveToAnotherAddressKeepsASessionOverQUIC(t *testing.T) {
	s := sharedSystem(t)
	ctx := t.Context()
	s.useProtocol(v1alpha1.ProtocolQUIC)
	t.Cleanup(func() { s.useProtocol(protocol) })
	was, err := s.edge.Status(ctx)
	s.must(err)
	if was.Link.Protocol != "quic" || was.Link.Session == "" {
		t.Fatalf("the link is %+v, expected a session over QUIC", was.Link)
	}
	s.must(s.edge.Move(s.edge.Address(), s.edge.MovedAddress()))
	back := sync.OnceFunc(func() { s.must(s.edge.Move(s.edge.MovedAddress(), s.edge.Address())) })
	t.Cleanup(back)
	s.runPod("from-elsewhere")
	back()
	s.runPod("at-home-again")
	is, err := s.edge.Status(ctx)
	s.must(err)
	if !is.Link.Connected || is.Link.Session != was.Link.Session {
		t.Errorf("the link is %+v, expected the session of before: %+v", is.Link, was.Link)
	}
}

// useProtocol starts edgecore anew with another protocol, if it has another one now.
func (s *system) useProtocol(p v1alpha1.Protocol) {
	s.t.Helper()
	ctx := context.Background()
	want := fmt.Sprintf("%q:%q", "protocol", p)
	if strings.Contains(s.status(), want) {
		return
	}
	s.must(s.edge.Supervisor.Stop(20 * time.Second))
	s.must(s.edge.SetProtocol(p))
	s.must(s.edge.StartCore(ctx))
	s.eventuallyStatus(time.Minute, "a link over "+string(p), want)
	s.must(s.edge.WaitReady(ctx, time.Minute))
}

// annotated waits until the Node says what carries its link.
func (s *system) annotated(protocol string) {
	s.t.Helper()
	cluster.Eventually(s.t, 20*time.Second, "the Node to say "+protocol, func() error {
		n, err := s.Admin.CoreV1().Nodes().Get(s.t.Context(), s.edge.Name(), metav1.GetOptions{})
		if err == nil && n.Annotations["tether.io/protocol"] != protocol {
			err = fmt.Errorf("it says %q", n.Annotations["tether.io/protocol"])
		}
		return err
	})
}
