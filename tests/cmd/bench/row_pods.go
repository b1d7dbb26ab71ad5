package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// podsLimit is how much longer than a stock kubelet's the same scaling may take.
const podsLimit = 1.15

// contender is a node whose pods are started, with what runs on it and for it instead of the other's.
type contender struct {
	name  string
	parts func() ([]int, error) // process ids
}

// cpu is what the parts have used since their start, in seconds.
func (c contender) cpu() (float64, error) {
	pids, err := c.parts()
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, pid := range pids {
		u, err := used(pid)
		if err != nil {
			return 0, err
		}
		sum += u.cpu.Seconds()
	}
	return sum, nil
}

// measurePods scales a Deployment on Tether's node and one on a stock kubelet's, in turn, against one control plane.
func measurePods(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	return s.down(s.podsInTurn(ctx))
}

func (s *system) podsInTurn(ctx context.Context) error {
	e, err := s.profiledEdge(ctx, "edge-tether")
	if err != nil {
		return err
	}
	kubelet, err := s.stockKubelet(ctx, "edge-stock")
	if err != nil {
		return err
	}
	tether := contender{"edge-tether", func() ([]int, error) {
		pid, err := e.CorePID()
		return []int{pid, s.Cloud.PID()}, err
	}}
	stock := contender{"edge-stock", func() ([]int, error) { return []int{kubelet.PID()}, nil }}
	for _, c := range []contender{tether, stock} {
		if err := s.deploy(ctx, c.name, c.name); err != nil {
			return err
		}
	}
	for _, replicas := range []int{10, 30} {
		took, cost := map[string][]float64{}, map[string][]float64{}
		// One round before the first one that counts: containerd unpacks the image then, once for each host.
		for i := range s.bench.times(false) + 1 {
			for _, c := range []contender{tether, stock} {
				seconds, cpu, err := s.upAndDown(ctx, c, replicas)
				if err != nil {
					return err
				}
				if i > 0 {
					took[c.name], cost[c.name] = append(took[c.name], seconds), append(cost[c.name], cpu)
				}
			}
		}
		what := fmt.Sprintf("%d pods to Ready", replicas)
		s.bench.figure(Figure{What: what + ", Tether", Unit: "s", Values: took[tether.name]})
		s.bench.figure(Figure{What: what + ", stock kubelet", Unit: "s", Values: took[stock.name]})
		s.bench.figure(Figure{What: what + ", ratio of the medians", Unit: "", Limit: atMost(podsLimit),
			Values: []float64{median(took[tether.name]) / median(took[stock.name])}})
		s.bench.figure(Figure{What: fmt.Sprintf("%d pods: CPU of edgecore and cloudcore until then", replicas), Unit: "s", Values: cost[tether.name]})
		s.bench.figure(Figure{What: fmt.Sprintf("%d pods: CPU of the stock kubelet until then", replicas), Unit: "s", Values: cost[stock.name]})
	}
	return s.profile(ctx, e, "30-pods", func() error {
		_, err := s.scale(ctx, "edge-tether", 30)
		return err
	})
}

// upAndDown scales up, for the time and the CPU that the contender's parts take for it, both in seconds, and down again,
// until every pod is gone.
func (s *system) upAndDown(ctx context.Context, c contender, replicas int) (seconds, cpu float64, err error) {
	before, err := c.cpu()
	if err != nil {
		return 0, 0, err
	}
	took, err := s.scale(ctx, c.name, replicas)
	if err != nil {
		return 0, 0, err
	}
	after, err := c.cpu()
	if err != nil {
		return 0, 0, err
	}
	if _, err := s.scale(ctx, c.name, 0); err != nil {
		return 0, 0, err
	}
	// The runtime removes sandboxes after the pods are gone from the API.
	return took.Seconds(), after - before, s.bench.rest(ctx, 3*time.Second)
}

func median(values []float64) float64 { return percentile(slices.Sorted(slices.Values(values)), 50) }
