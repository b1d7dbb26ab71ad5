package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

const powerPods = 10

// settled is how long edgecore runs before the first cut.
const settled = 45 * time.Second

// notReadyTimeout bounds the wait until the control plane takes a silent node for lost; its grace is 50 s.
const notReadyTimeout = 2 * time.Minute

// measurePower cuts the power of an edge that is cut off, brings it back, and then its cable.
func measurePower(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	e, err := s.edge(ctx, "edge-1")
	if err == nil {
		err = s.deploy(ctx, "ten", "edge-1")
	}
	if err == nil {
		_, err = s.scale(ctx, "ten", powerPods)
	}
	if err != nil {
		return s.down(err)
	}
	// A kubelet that ended within its first 30 s is started again with a delay. A real power cut shows in the kernel's
	// boot id, and this one does not.
	if err := wait(ctx, settled); err != nil {
		return s.down(err)
	}
	var sum powerTimes
	for range b.times(true) {
		if err := s.powerOnce(ctx, e, &sum); err != nil {
			return s.down(err)
		}
	}
	b.figure(Figure{What: "power cut offline: boot of network and containerd", Unit: "s", Values: sum.boot})
	b.figure(Figure{What: "power cut offline: edgecore's start to 10 pods running", Unit: "s", Limit: atMost(2), Values: sum.running})
	b.figure(Figure{What: "cloud returns: node Ready in the API", Unit: "s", Limit: atMost(5), Values: sum.node})
	b.figure(Figure{What: "cloud returns: all pods Ready in the API", Unit: "s", Limit: atMost(5), Values: sum.pods})
	return s.down(nil)
}

// powerTimes are seconds, one of each for every repetition.
type powerTimes struct{ boot, running, node, pods []float64 }

func (s *system) powerOnce(ctx context.Context, e *stack.Edge, t *powerTimes) error {
	if err := errors.Join(e.Cut(), e.PowerCut()); err != nil {
		return err
	}
	start := time.Now()
	if err := e.Boot(ctx); err != nil {
		return err
	}
	// A boot plugs a new cable in.
	if err := e.Cut(); err != nil {
		return err
	}
	t.boot = append(t.boot, time.Since(start).Seconds())
	start = time.Now()
	if err := e.Supervisor.Restart(); err != nil {
		return err
	}
	if err := allRunning(ctx, e.EdgeHost, powerPods); err != nil {
		return err
	}
	t.running = append(t.running, time.Since(start).Seconds())

	err := until(ctx, poll, notReadyTimeout, "the control plane to take node and pods for lost", func() error {
		if s.nodeReady(ctx, e.Name()) == nil {
			return errors.New("it shows the node as Ready")
		}
		ready, _, err := s.countPods(ctx, "ten")
		if err == nil && ready > 0 {
			err = fmt.Errorf("it shows %d pods as Ready", ready)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := e.Heal(ctx); err != nil {
		return err
	}
	start = time.Now()
	if err := until(ctx, poll, readyTimeout, "the node", func() error { return s.nodeReady(ctx, e.Name()) }); err != nil {
		return err
	}
	t.node = append(t.node, time.Since(start).Seconds())
	if err := until(ctx, poll, readyTimeout, "its pods", func() error { return s.podsReady(ctx, "ten", powerPods) }); err != nil {
		return err
	}
	t.pods = append(t.pods, time.Since(start).Seconds())
	return nil
}

// allRunning waits until the runtime runs n containers.
func allRunning(ctx context.Context, h *cluster.EdgeHost, n int) error {
	cri, err := h.CRI(ctx)
	if err != nil {
		return err
	}
	defer cri.Close()
	return until(ctx, 20*time.Millisecond, readyTimeout, fmt.Sprintf("%d running containers", n), func() error {
		all, err := cri.Containers(ctx)
		if err != nil {
			return err
		}
		running := 0
		for _, c := range all {
			if c.Running {
				running++
			}
		}
		if running != n {
			return fmt.Errorf("%d run", running)
		}
		return nil
	})
}
