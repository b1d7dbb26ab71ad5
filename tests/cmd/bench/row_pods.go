package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// podsLimit is how much longer than a stock kubelet's the same scaling may take.
const podsLimit = 1.15

// measurePods scales a Deployment on Tether's node and one on a stock kubelet's, in turn, against one control plane.
func measurePods(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	names := []string{"edge-tether", "edge-stock"}
	if _, err = s.edge(ctx, names[0]); err == nil {
		_, err = s.stockKubelet(ctx, names[1])
	}
	for _, name := range names {
		if err == nil {
			err = s.deploy(ctx, name, name)
		}
	}
	if err != nil {
		return s.down(err)
	}
	for _, replicas := range []int{10, 30} {
		took := map[string][]float64{}
		// One round before the first one that counts: containerd unpacks the image then, once for each host.
		for i := range b.times(false) + 1 {
			for _, name := range names {
				seconds, err := s.upAndDown(ctx, name, replicas)
				if err != nil {
					return s.down(err)
				}
				if i > 0 {
					took[name] = append(took[name], seconds)
				}
			}
		}
		what := fmt.Sprintf("%d pods to Ready", replicas)
		b.figure(Figure{What: what + ", Tether", Unit: "s", Values: took[names[0]]})
		b.figure(Figure{What: what + ", stock kubelet", Unit: "s", Values: took[names[1]]})
		b.figure(Figure{What: what + ", ratio of the medians", Unit: "", Limit: atMost(podsLimit),
			Values: []float64{median(took[names[0]]) / median(took[names[1]])}})
	}
	return s.down(nil)
}

// upAndDown scales up, for the time, and down again, until every pod is gone.
func (s *system) upAndDown(ctx context.Context, name string, replicas int) (seconds float64, err error) {
	took, err := s.scale(ctx, name, replicas)
	if err != nil {
		return 0, err
	}
	if _, err := s.scale(ctx, name, 0); err != nil {
		return 0, err
	}
	// The runtime removes sandboxes after the pods are gone from the API.
	return took.Seconds(), s.bench.rest(ctx, 3*time.Second)
}

func median(values []float64) float64 { return percentile(slices.Sorted(slices.Values(values)), 50) }
