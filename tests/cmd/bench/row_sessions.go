package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/tests/fleet"
)

const (
	fleetPrefix  = "fleet"
	sessionsRest = 60 * time.Second
	// maxSessions is the largest fleet: with a file for each connection it stays within a limit of 20,000 files.
	maxSessions = 2000
)

// measureSessions connects simulated edges, from a process of their own, and reads cloudcore's memory with them and
// without. Each edge has a Node, which is there before the first reading: only sessions count.
func measureSessions(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	if err := s.makeNodes(ctx, maxSessions); err != nil {
		return s.down(err)
	}
	var accepted []float64
	ws, quic := transport.WebSocket, transport.QUIC
	for i, n := range []int{500, maxSessions} {
		resident, anonymous, took, err := s.sessions(ctx, fmt.Sprintf("fleet-%d", i), ws, n, true)
		if err != nil {
			return s.down(err)
		}
		b.figure(Figure{What: fmt.Sprintf("cloudcore memory per idle session, %d", n), Unit: "KiB", Limit: atMost(48), Values: []float64{resident}})
		b.figure(Figure{What: fmt.Sprintf("of which anonymous, %d", n), Unit: "KiB", Values: []float64{anonymous}})
		if n == maxSessions {
			accepted = append(accepted, took.Seconds())
		}
	}
	for i := 1; i < b.times(true); i++ {
		_, _, took, err := s.sessions(ctx, fmt.Sprintf("again-%d", i), ws, maxSessions, false)
		if err != nil {
			return s.down(err)
		}
		accepted = append(accepted, took.Seconds())
	}
	b.figure(Figure{What: fmt.Sprintf("%d sessions accepted", maxSessions), Unit: "s", Limit: atMost(2.5), Values: accepted,
		Note: "from the first dial to the last Welcome, the clients' own work on the same cores included; cloudcore claims the Leases after three seconds and renews them every 15 s"})
	resident, anonymous, took, err := s.sessions(ctx, "fleet-quic", quic, maxSessions, true)
	if err != nil {
		return s.down(err)
	}
	b.figure(Figure{What: fmt.Sprintf("cloudcore memory per idle session over QUIC, %d", maxSessions), Unit: "KiB", Values: []float64{resident}})
	b.figure(Figure{What: fmt.Sprintf("of which anonymous, over QUIC, %d", maxSessions), Unit: "KiB", Values: []float64{anonymous}})
	b.figure(Figure{What: fmt.Sprintf("%d sessions accepted over QUIC", maxSessions), Unit: "s", Values: []float64{took.Seconds()}})
	return s.down(nil)
}

// makeNodes makes the Nodes of a fleet, as kubelets would have registered them.
func (s *system) makeNodes(ctx context.Context, n int) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fleet.Name(fleetPrefix, i), Labels: map[string]string{corev1.LabelHostname: fleet.Name(fleetPrefix, i)}},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
					LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}}}
			if _, err := s.Admin.CoreV1().Nodes().Create(gctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("make Node %s: %w", node.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// sessions starts cloudcore anew, connects n edges, and takes them away again. The memory is of one session, in KiB,
// and 0 unless rest is set.
func (s *system) sessions(ctx context.Context, name string, protocol transport.Protocol, n int, rest bool) (rss, anon float64, took time.Duration, err error) {
	if err := s.Cloud.Kill(); err != nil {
		return 0, 0, 0, err
	}
	if err := s.Cloud.Restart(); err != nil {
		return 0, 0, 0, err
	}
	if err := s.CloudReady(ctx); err != nil {
		return 0, 0, 0, err
	}
	read := func() (rss, anon float64, err error) {
		if err := s.bench.rest(ctx, sessionsRest); err != nil || !rest {
			return 0, 0, err
		}
		return resident(s.Cloud.PID())
	}
	rss0, anon0, err := read()
	if err != nil {
		return 0, 0, 0, err
	}
	remote, p, err := s.startFleet(ctx, name, protocol)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	grown, err := remote.Grow(ctx, n)
	if err != nil {
		return 0, 0, 0, err
	}
	rss1, anon1, err := read()
	if err != nil {
		return 0, 0, 0, err
	}
	state, err := remote.Status(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	if state.Connected != n || state.Lost > 0 {
		return 0, 0, 0, fmt.Errorf("expected %d sessions that last, found %d, and %d lost: %s", n, state.Connected, state.Lost, state.LastError)
	}
	each := func(before, after float64) float64 { return (after - before) * mebibyte / float64(n) }
	if rest {
		fmt.Fprintf(s.bench.out, "   cloudcore: %s MiB without sessions, %s with %d; accepted in %s\n", number(rss0), number(rss1), n, grown.Took.Round(time.Millisecond))
	}
	return each(rss0, rss1), each(anon0, anon1), grown.Took, nil
}
