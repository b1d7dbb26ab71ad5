package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// The rest before memory is read, and the time over which idle CPU is taken.
const (
	memoryRest = 60 * time.Second
	cpuTime    = 60 * time.Second
)

// measureMemory reads edgecore's memory with 0 and 10 pods, each after a rest, and its CPU in the minute after that.
// Each repetition is a new edge.
func measureMemory(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	var rss, anon [2][]float64
	var cpu []float64
	for i := range b.times(true) {
		err := s.memoryOnce(ctx, fmt.Sprintf("edge-%d", i), func(pods int, r, a float64) {
			rss[pods], anon[pods] = append(rss[pods], r), append(anon[pods], a)
		}, func(c float64) { cpu = append(cpu, c) })
		if err != nil {
			return s.down(err)
		}
	}
	for i, pods := range []string{"0 pods", "10 pods"} {
		b.figure(Figure{What: "edgecore resident, " + pods, Unit: "MiB", Limit: atMost(72), Values: rss[i]})
		b.figure(Figure{What: "edgecore anonymous, " + pods, Unit: "MiB", Limit: atMost(30), Values: anon[i]})
	}
	b.figure(Figure{What: "idle CPU, 10 pods", Unit: "% of a core", Limit: atMost(1.2), Values: cpu})
	return s.down(s.stockMemory(ctx))
}

// stockMemory reads the same of a stock kubelet, once, for comparison.
func (s *system) stockMemory(ctx context.Context) error {
	const name = "edge-stock"
	kubelet, err := s.stockKubelet(ctx, name)
	if err != nil {
		return err
	}
	if err := s.deploy(ctx, name, name); err != nil {
		return err
	}
	if _, err := s.scale(ctx, name, 10); err != nil {
		return err
	}
	if err := s.bench.rest(ctx, memoryRest); err != nil {
		return err
	}
	rss, anon, err := resident(kubelet.PID())
	if err != nil {
		return err
	}
	percent, err := s.bench.idle(ctx, kubelet.PID(), cpuTime)
	if err != nil {
		return err
	}
	s.bench.figure(Figure{What: "for comparison: stock kubelet resident, 10 pods", Unit: "MiB", Values: []float64{rss}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet anonymous, 10 pods", Unit: "MiB", Values: []float64{anon}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet idle CPU, 10 pods", Unit: "% of a core", Values: []float64{percent}})
	return nil
}

func (s *system) memoryOnce(ctx context.Context, name string, memory func(pods int, rss, anon float64), cpu func(float64)) error {
	e, err := s.edgeWith(ctx, name, func(c *v1alpha1.EdgeCore) { c.Metrics.Profiling = true })
	if err != nil {
		return err
	}
	if err := s.deploy(ctx, name, name); err != nil {
		return err
	}
	for i, pods := range []int{0, 10} {
		if _, err := s.scale(ctx, name, pods); err != nil {
			return err
		}
		if err := s.bench.rest(ctx, memoryRest); err != nil {
			return err
		}
		pid, err := e.CorePID()
		if err != nil {
			return err
		}
		rss, anon, err := resident(pid)
		if err != nil {
			return err
		}
		memory(i, rss, anon)
	}
	pid, err := e.CorePID()
	if err != nil {
		return err
	}
	percent, err := s.bench.idle(ctx, pid, cpuTime)
	if err != nil {
		return err
	}
	cpu(percent)
	for name, path := range map[string]string{"edgecore-heap": "heap", "edgecore-cpu": "profile?seconds=30"} {
		if err := s.bench.saveProfile(ctx, e.HTTPClient(2*time.Minute), e.Metrics()+"/debug/pprof/"+path, name); err != nil {
			return err
		}
	}
	if _, err := s.scale(ctx, name, 0); err != nil {
		return err
	}
	return e.Supervisor.Stop(30 * time.Second)
}

// idle takes a process's use of CPU over d, in percent of one core.
func (b *bench) idle(ctx context.Context, pid int, d time.Duration) (float64, error) {
	before, err := used(pid)
	if err != nil {
		return 0, err
	}
	if err := b.rest(ctx, d); err != nil {
		return 0, err
	}
	after, err := used(pid)
	return after.since(before), err
}
