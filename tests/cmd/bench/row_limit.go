package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// limits are the memory groups that are tried, in MiB, largest first.
var limits = []int{128, 112, 96, 80, 72, 64}

// What a start within a limit must do to count: use less than this much CPU over limitTime once it has settled, with
// its node Ready before and after.
const (
	limitCPU    = 5.0 // percent of one core
	limitSettle = 30 * time.Second
	limitTime   = 30 * time.Second
	limitStart  = 60 * time.Second
)

// measureLimit finds the smallest memory group in which edgecore runs 10 pods without thrashing, by bisection.
func measureLimit(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	e, err := s.edge(ctx, "edge-1")
	if err == nil {
		err = s.deploy(ctx, "ten", "edge-1")
	}
	if err == nil {
		_, err = s.scale(ctx, "ten", 10)
	}
	if err == nil {
		// Without its supervisor, whose memory would count in the same group.
		err = e.Supervisor.Stop(30 * time.Second)
	}
	if err != nil {
		return s.down(err)
	}
	var smallest []float64
	note := ""
	for range min(b.times(true), 2) {
		found, told, err := s.bisect(ctx, e)
		if err != nil {
			return s.down(err)
		}
		smallest, note = append(smallest, float64(found)), told
	}
	b.figure(Figure{What: "smallest memory group, 10 pods", Unit: "MiB", Limit: atMost(80), Values: smallest, Note: note})
	return s.down(nil)
}

// bisect returns the smallest limit that holds, taking for granted that every larger one does then.
func (s *system) bisect(ctx context.Context, e *stack.Edge) (smallest int, note string, err error) {
	holds, fails := -1, len(limits) // indexes
	for fails-holds > 1 {
		middle := (holds + fails) / 2
		ok, told, err := s.tryLimit(ctx, e, limits[middle])
		if err != nil {
			return 0, "", err
		}
		fmt.Fprintf(s.bench.out, "   %d MiB: %s\n", limits[middle], told)
		note += fmt.Sprintf("%d MiB: %s; ", limits[middle], told)
		if ok {
			holds = middle
		} else {
			fails = middle
		}
	}
	if holds < 0 {
		return 0, "", fmt.Errorf("expected edgecore to run within %d MiB, found that it does not: %s", limits[0], note)
	}
	return limits[holds], note, nil
}

// tryLimit starts edgecore in a memory group and looks how it does. The pods run on meanwhile, outside of the group.
func (s *system) tryLimit(ctx context.Context, e *stack.Edge, mebibytes int) (ok bool, told string, err error) {
	program, err := s.ownEdgecore(ctx)
	if err != nil {
		return false, "", err
	}
	name := fmt.Sprintf("edgecore-%dm", mebibytes)
	group, err := memoryGroup(s.cluster, e.Cgroup()+"/"+name, mebibytes)
	if err != nil {
		return false, "", err
	}
	// Pages of the binary that are in memory already would be another group's.
	if err := dropCache(program); err != nil {
		return false, "", err
	}
	config := filepath.Join(filepath.Dir(e.DataDir()), "edgecore.yaml")
	p, err := e.Start(cluster.ProcessConfig{Name: name, Argv: []string{program, "--config", config}})
	if err != nil {
		return false, "", err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	started := time.Now()
	err = until(ctx, poll, limitStart, "edgecore to be in sync", func() error {
		if !p.Alive() {
			return nil // said below
		}
		return connected(ctx, e)
	})
	if ctx.Err() != nil {
		return false, "", ctx.Err()
	}
	if err != nil {
		return false, fmt.Sprintf("not ready within %s", limitStart), nil
	}
	ready := time.Since(started)
	if err := s.bench.rest(ctx, limitSettle); err != nil {
		return false, "", err
	}
	before, err := used(p.PID())
	if err != nil {
		return false, "it ended (out of memory)", nil
	}
	if err := s.bench.rest(ctx, limitTime); err != nil {
		return false, "", err
	}
	after, err := used(p.PID())
	if err != nil || !p.Alive() {
		return false, "it ended (out of memory)", nil
	}
	nodeErr := s.nodeReady(ctx, e.Name())
	cpu := after.since(before)
	told = fmt.Sprintf("ready after %s, %s%% CPU, %d major faults in %s, group uses %s, node Ready: %t", ready.Round(100*time.Millisecond), number(cpu),
		after.faults-before.faults, after.at.Sub(before.at).Round(time.Second), groupUse(group), nodeErr == nil)
	return cpu < limitCPU && nodeErr == nil, told, nil
}

// connected returns nil when edgecore says that it is in sync with the cloud.
func connected(ctx context.Context, e *stack.Edge) error {
	text, err := e.Get(ctx, e.Metrics()+"/status")
	if err != nil {
		return err
	}
	var status struct {
		Link struct {
			Synced  bool
			Problem string
		}
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return fmt.Errorf("read the state of edgecore: %w", err)
	}
	if !status.Link.Synced {
		return fmt.Errorf("it is not in sync: %s", status.Link.Problem)
	}
	return nil
}

// memoryGroup makes the control group that a process of the edge host will be in, with a limit, and returns its directory.
func memoryGroup(c *cluster.Cluster, path string, mebibytes int) (string, error) {
	for _, tree := range c.Machine().Hierarchies {
		if !slices.Contains(tree.Controllers, "memory") {
			continue
		}
		dir, file := filepath.Join(tree.Path, path), "memory.limit_in_bytes"
		if tree.V2 {
			file = "memory.max"
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("make the memory group: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(mebibytes<<20)), 0o644); err != nil {
			return "", fmt.Errorf("limit the memory group: %w", err)
		}
		return dir, nil
	}
	return "", errors.New("limit the memory of edgecore: expected a control group tree with memory, found none")
}

// groupUse is what a memory group says that it uses, page cache included.
func groupUse(dir string) string {
	for _, name := range []string{"memory.usage_in_bytes", "memory.current"} {
		if n, err := strconv.ParseFloat(firstLine(filepath.Join(dir, name)), 64); err == nil {
			return number(n/(1<<20)) + " MiB"
		}
	}
	return "an unknown amount"
}

// ownEdgecore is a copy of edgecore that no other process of the machine has mapped: what is mapped cannot be dropped
// from the page cache, and its pages are the group's that read them first.
func (s *system) ownEdgecore(ctx context.Context) (string, error) {
	program, err := cluster.Program(ctx, "edgecore")
	if err != nil {
		return "", err
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("copy edgecore: %w", err)
	}
	own := filepath.Join(s.cluster.Dir(), "edgecore-of-its-own")
	if err := os.WriteFile(own, binary, 0o755); err != nil {
		return "", fmt.Errorf("copy edgecore: %w", err)
	}
	return own, nil
}

// dropCache lets go of the pages of a file that no process has mapped, and first writes those that are not on the disk.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("drop the page cache: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("drop the page cache of %s: %w", path, err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the page cache of %s: %w", path, err)
	}
	return nil
}
