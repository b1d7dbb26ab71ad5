package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/stack"
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
	if err := s.saveProfiles(ctx, e); err != nil {
		return err
	}
	if _, err := s.scale(ctx, name, 0); err != nil {
		return err
	}
	return e.Supervisor.Stop(30 * time.Second)
}

// saveProfiles writes edgecore's heap and 30 s of its CPU into .tether/profiles, after the figures were taken: for whoever
// asks where a figure comes from.
func (s *system) saveProfiles(ctx context.Context, e *stack.Edge) error {
	dir := filepath.Join(s.bench.root, ".tether", "profiles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save profiles: %w", err)
	}
	client := e.HTTPClient(2 * time.Minute)
	for name, path := range map[string]string{"edgecore-heap": "heap", "edgecore-cpu": "profile?seconds=30"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Metrics()+"/debug/pprof/"+path, nil)
		if err != nil {
			return fmt.Errorf("save profiles: %w", err)
		}
		if err := save(client, request, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("save profiles: %w", err)
		}
	}
	return nil
}

func save(client *http.Client, request *http.Request, file string) error {
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, response.Status)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
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
