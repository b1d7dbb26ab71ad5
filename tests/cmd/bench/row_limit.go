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
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// limits are the memory groups that are tried, in MiB, largest first.
var limits = []int{128, 112, 96, 80, 72, 64, 56, 48}

// promised is the memory group that edgecore shall run in, in MiB.
const promised = 80

// What a start within a limit must do to count: use less than this much CPU and wait less often than that for its own program over
// limitTime once it has settled, with its node Ready afterwards.
const (
	limitCPU    = 5.0  // percent of one core
	limitFaults = 3000 // a minute: more would have a card that gives 500 pages a second at work for a tenth of the time
	limitSettle = 30 * time.Second
	limitTime   = 60 * time.Second
	limitStart  = 60 * time.Second
)

// within is how edgecore does in a memory group.
type within struct {
	failed string        // why there is nothing else to tell, if there is nothing
	ready  time.Duration // from its start until it was in sync
	cpu    float64       // percent of one core, at rest
	faults float64       // major ones a minute, at rest
	anon   float64       // its own memory, in MiB
	use    string        // of the group, page cache included
	node   bool          // Ready
}

func (w within) holds() bool {
	return w.failed == "" && w.cpu < limitCPU && w.faults < limitFaults && w.node
}

func (w within) String() string {
	if w.failed != "" {
		return w.failed
	}
	return fmt.Sprintf("ready after %s, %s%% CPU, %s major faults a minute, %s MiB anonymous, group uses %s, node Ready: %t",
		w.ready.Round(100*time.Millisecond), number(w.cpu), number(w.faults), number(w.anon), w.use, w.node)
}

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
	var smallest, cpu, faults []float64
	note := ""
	for range min(b.times(true), 2) {
		found, tried, err := s.bisect(ctx, e)
		if err != nil {
			return s.down(err)
		}
		smallest, note = append(smallest, float64(found)), told(tried)
		if w, ok := tried[promised]; ok && w.failed == "" {
			cpu, faults = append(cpu, w.cpu), append(faults, w.faults)
		}
	}
	b.figure(Figure{What: "smallest memory group, 10 pods", Unit: "MiB", Limit: atMost(promised), Values: smallest, Note: note})
	if len(cpu) > 0 {
		b.figure(Figure{What: fmt.Sprintf("CPU at rest in a group of %d MiB", promised), Unit: "% of a core", Limit: atMost(limitCPU), Values: cpu})
		b.figure(Figure{What: fmt.Sprintf("major faults at rest in a group of %d MiB", promised), Unit: "1/min", Limit: atMost(limitFaults), Values: faults})
	}
	return s.down(nil)
}

// told is how edgecore did in each group, largest first.
func told(tried map[int]within) string {
	var all []string
	for _, mebibytes := range limits {
		if w, ok := tried[mebibytes]; ok {
			all = append(all, fmt.Sprintf("%d MiB: %s", mebibytes, w))
		}
	}
	return strings.Join(all, "; ")
}

// bisect returns the smallest limit that holds, taking for granted that every larger one does then, and how edgecore did in each that
// was tried.
func (s *system) bisect(ctx context.Context, e *stack.Edge) (smallest int, tried map[int]within, err error) {
	tried = map[int]within{}
	holds, fails := -1, len(limits) // indexes
	for fails-holds > 1 {
		middle := (holds + fails) / 2
		w, err := s.tryLimit(ctx, e, limits[middle])
		if err != nil {
			return 0, nil, err
		}
		fmt.Fprintf(s.bench.out, "   %d MiB: %s\n", limits[middle], w)
		tried[limits[middle]] = w
		if w.holds() {
			holds = middle
		} else {
			fails = middle
		}
	}
	if holds < 0 {
		return 0, nil, fmt.Errorf("expected edgecore to run within %d MiB, found that it does not: %s", limits[0], told(tried))
	}
	return limits[holds], tried, nil
}

// tryLimit starts edgecore in a memory group and looks how it does. The pods run on meanwhile, outside of the group.
func (s *system) tryLimit(ctx context.Context, e *stack.Edge, mebibytes int) (w within, err error) {
	program, err := s.ownEdgecore(ctx)
	if err != nil {
		return w, err
	}
	name := fmt.Sprintf("edgecore-%dm", mebibytes)
	group, err := memoryGroup(s.cluster, e.Cgroup()+"/"+name, mebibytes)
	if err != nil {
		return w, err
	}
	// Pages of the binary that are in memory already would be another group's.
	if err := dropCache(program); err != nil {
		return w, err
	}
	p, err := e.Start(cluster.ProcessConfig{Name: name, Argv: []string{program, "--config", e.Config()}})
	if err != nil {
		return w, err
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
		return w, ctx.Err()
	}
	if err != nil {
		return within{failed: fmt.Sprintf("not ready within %s", limitStart)}, nil
	}
	w.ready = time.Since(started)
	if err := s.bench.rest(ctx, limitSettle); err != nil {
		return w, err
	}
	ended := within{failed: "it ended (out of memory)"}
	before, err := used(p.PID())
	if err != nil {
		return ended, nil
	}
	if err := s.bench.rest(ctx, limitTime); err != nil {
		return w, err
	}
	after, err := used(p.PID())
	if err == nil {
		_, w.anon, err = resident(p.PID())
	}
	if err != nil || !p.Alive() {
		return ended, nil
	}
	w.cpu, w.faults = after.since(before), float64(after.faults-before.faults)/after.at.Sub(before.at).Minutes()
	w.use, w.node = groupUse(group), s.nodeReady(ctx, e.Name()) == nil
	return w, nil
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
