package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/netem"
	"github.com/tether-edge/tether/tests/stack"
)

const (
	// roundTrip is that of the link.
	roundTrip = 100 * time.Millisecond
	// forgotten is after how long without requests neither kube-apiserver nor CloudCore has a connection left over.
	forgotten = 100 * time.Second
	// extraTrips is how many round trips the first byte may take beyond those of a stock kubelet: one, and a quarter for work.
	extraTrips = 1.25
)

// measureFar reads a pod's log over a link of 100 ms, from Tether's node and from a stock kubelet's, after a long rest and
// again at once.
func measureFar(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	return s.down(s.far(ctx))
}

func (s *system) far(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hosts := map[string]*cluster.EdgeHost{}
	var relays []*netem.Relay
	for _, name := range []string{"edge-tether", "edge-stock"} {
		h, err := s.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: name, Images: s.bench.images, Split: true})
		if err != nil {
			return err
		}
		if err := errors.Join(netem.DisableOffload(h.RootLink()), h.Inside(false, func() error { return netem.DisableOffload("eth0") })); err != nil {
			return err
		}
		root, edge := h.RelayLinks()
		r, err := netem.New(netem.Config{Root: root, Edge: edge}, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- r.Start(ctx) }()
		defer func() { stop(); <-done }()
		hosts[name], relays = h, append(relays, r)
	}
	e, err := s.NewEdge(ctx, hosts["edge-tether"], nil)
	if err != nil {
		return err
	}
	if err := e.StartCore(ctx); err != nil {
		return err
	}
	if _, err := s.StockKubelet(ctx, hosts["edge-stock"], s.bench.machine.SysResource); err != nil {
		return err
	}
	if err := e.WaitReady(ctx, readyTimeout); err != nil {
		return err
	}
	for name := range hosts {
		if err := s.deploy(ctx, name, name); err != nil {
			return err
		}
		if _, err := s.scale(ctx, name, 1); err != nil {
			return err
		}
	}
	for _, r := range relays {
		if err := r.SetBoth(netem.Settings{Delay: roundTrip / 2}); err != nil {
			return err
		}
	}
	for _, p := range []v1alpha1.Protocol{v1alpha1.ProtocolWebSocket, v1alpha1.ProtocolQUIC} {
		if err := s.farBy(ctx, e, p); err != nil {
			return err
		}
	}
	return nil
}

// farBy compares the two nodes, the one with a protocol.
func (s *system) farBy(ctx context.Context, e *stack.Edge, p v1alpha1.Protocol) error {
	if err := s.carryBy(ctx, e, p); err != nil {
		return err
	}
	if err := s.answers(ctx, "deploy/edge-tether"); err != nil {
		return err
	}
	first := map[string][]float64{}
	for range s.bench.times(true) {
		if err := s.bench.rest(ctx, forgotten); err != nil {
			return err
		}
		for _, when := range []string{"after a rest", "again"} {
			for _, name := range []string{"edge-tether", "edge-stock"} {
				took, err := s.firstByte(ctx, name)
				if err != nil {
					return err
				}
				first[name+when] = append(first[name+when], milliseconds(took))
			}
		}
	}
	for _, when := range []string{"after a rest", "again"} {
		ours, stock := first["edge-tether"+when], first["edge-stock"+when]
		s.bench.figure(Figure{What: fmt.Sprintf("first byte of logs at 100 ms over %s, %s", p, when), Unit: "ms", Values: ours})
		s.bench.figure(Figure{What: fmt.Sprintf("first byte of logs at 100 ms from a stock kubelet, beside %s, %s", p, when), Unit: "ms", Values: stock})
		s.bench.figure(Figure{What: fmt.Sprintf("round trips more over %s than to a stock kubelet, %s", p, when), Limit: atMost(extraTrips),
			Values: []float64{(median(ours) - median(stock)) / milliseconds(roundTrip)}})
	}
	return nil
}

// firstByte is the time from the request for the log of a Deployment's pod to its first byte.
func (s *system) firstByte(ctx context.Context, app string) (time.Duration, error) {
	pods, err := s.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return 0, err
	}
	if len(pods.Items) != 1 {
		return 0, fmt.Errorf("expected one pod of %s, found %d", app, len(pods.Items))
	}
	start := time.Now()
	stream, err := s.Admin.CoreV1().Pods(namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).Stream(ctx)
	if err != nil {
		return 0, fmt.Errorf("logs of %s: %w", app, err)
	}
	defer stream.Close()
	if _, err := stream.Read(make([]byte, 1)); err != nil {
		return 0, fmt.Errorf("logs of %s: %w", app, err)
	}
	return time.Since(start), nil
}
