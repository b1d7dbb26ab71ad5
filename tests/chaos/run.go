package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// Times of a run.
const (
	// restWithin is the longest that a system may take to come to rest after a slot. Kubernetes' own back-off after a
	// container was killed twice in a row is a part of it.
	restWithin = 3 * time.Minute
	// calm is how long the workloads change before the first fault.
	calm = 10 * time.Second
)

// Config says what a run does.
type Config struct {
	Seed uint64
	// Slots bounds the run to so many; 0 deals the whole hand of the seed.
	Slots int
	// Only, if not empty, are the faults to draw from.
	Only []string
	// Base is the directory that systems are made in, Logs where the logs of their programs are kept, and Out gets the timeline.
	Base, Logs string
	Out        io.Writer
}

// faults are those to draw from: those that were asked for, or all; of a short run without those that need minutes before.
func (cfg Config) faults() ([]Fault, error) {
	if len(cfg.Only) == 0 {
		return slices.DeleteFunc(Faults(), func(f Fault) bool { return f.Former && cfg.Slots > 0 }), nil
	}
	table := slices.DeleteFunc(Faults(), func(f Fault) bool { return !slices.Contains(cfg.Only, f.Name) })
	if len(table) != len(cfg.Only) {
		return nil, fmt.Errorf("expected names of faults, found %s among them that are none; there are %s", strings.Join(cfg.Only, ","), strings.Join(Names(), ", "))
	}
	return table, nil
}

// protocols by seed.
var protocols = []v1alpha1.Protocol{v1alpha1.ProtocolWebSocket, v1alpha1.ProtocolQUIC, v1alpha1.ProtocolAuto}

// Run runs one seed and returns what came of it. An error says that it could not be run to its end, or that a promise was broken;
// the result tells as much as there is in either case.
func Run(ctx context.Context, cfg Config) (Result, error) {
	table, err := cfg.faults()
	if err != nil {
		return Result{}, err
	}
	if cfg.Seed == 0 {
		return Result{}, errors.New("expected a seed of 1 or more, found 0")
	}
	r := &run{cfg: cfg, table: map[string]Fault{}, time: &timeline{out: cfg.Out, begun: time.Now()}}
	for _, f := range table {
		r.table[f.Name] = f
	}
	protocol := protocols[cfg.Seed%uint64(len(protocols))]
	r.result = Result{Seed: cfg.Seed, Short: cfg.Slots > 0, Begun: r.time.begun.UTC(), Protocol: string(protocol)}
	r.time.say("seed %d, link by %s", cfg.Seed, protocol)
	plan := Draw(cfg.Seed, table, cfg.Slots)
	if slices.ContainsFunc(slices.Concat(plan...), func(p Planned) bool { return r.table[p.Fault].Former }) {
		if _, err := buildFormer(ctx); err != nil {
			return r.result, err
		}
	}
	w, err := newWorld(ctx, cfg.Base, cfg.Seed, protocol, r.needsClock(plan), r.time)
	if err == nil {
		r.time.say("the system is up")
		err = r.all(ctx, w, plan)
		err = errors.Join(err, r.keepLogs(w, err != nil && ctx.Err() == nil))
		err = errors.Join(err, w.down())
	}
	if err == nil {
		r.time.say("passed")
	}
	r.result.Took = time.Since(r.time.begun).Round(time.Second).Seconds()
	if err != nil {
		r.time.say("FAILED: %v", err)
		r.result.Failure, r.result.Timeline = err.Error(), r.time.String()
	}
	return r.result, err
}

func (r *run) needsClock(plan [][]Planned) bool {
	return slices.ContainsFunc(slices.Concat(plan...), func(p Planned) bool { return r.table[p.Fault].Clock })
}

// keepLogs copies the logs to where they stay, and shows their ends.
func (r *run) keepLogs(w *world, show bool) error {
	dir := filepath.Join(r.cfg.Logs, fmt.Sprintf("seed-%d", r.cfg.Seed))
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("keep the logs: %w", err)
	}
	for _, p := range w.cluster.Processes() {
		log, err := os.ReadFile(p.LogPath())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, p.Name()+".log"), log, 0o644)
		}
		if err != nil {
			return fmt.Errorf("keep the logs: %w", err)
		}
		if !show {
			continue
		}
		fmt.Fprintf(r.cfg.Out, "the end of the log of %s:\n", p.Name())
		for line := range strings.Lines(p.LogTail(15)) {
			fmt.Fprintf(r.cfg.Out, "%.400s\n", strings.TrimSpace(line))
		}
	}
	if show && w.edge != nil {
		// What it was doing, as far as it can be asked: a process that grew shows here what it grew by, and whether it still needs that.
		for name, page := range map[string]string{"goroutines": "/debug/pprof/goroutine?debug=1", "metrics": "/metrics", "heap": "/debug/pprof/heap?gc=1"} {
			if text, err := w.edge.Get(context.Background(), w.edge.Metrics()+page); err != nil {
				r.time.say("edgecore does not tell its %s: %v", name, err)
			} else if err := os.WriteFile(filepath.Join(dir, "edgecore."+name), []byte(text), 0o644); err != nil {
				return fmt.Errorf("keep the logs: %w", err)
			}
		}
	}
	r.time.say("the logs are in %s", dir)
	return nil
}

// Names are those of all faults.
func Names() []string {
	var names []string
	for _, f := range Faults() {
		names = append(names, f.Name)
	}
	return names
}

type run struct {
	cfg    Config
	table  map[string]Fault
	time   *timeline
	result Result
}

// all runs the workloads, and every slot.
func (r *run) all(ctx context.Context, w *world, plan [][]Planned) error {
	l, err := newWorkload(w, r.cfg.Seed)
	if err != nil {
		return err
	}
	if err := l.deploy(ctx); err != nil {
		return err
	}
	aside, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for _, f := range []func(context.Context){l.meters.report, l.meters.watch, l.valve.serve, l.valve.call, l.stream.keep, l.log.keep, l.witness.watch, l.witness.guard} {
		wg.Add(1)
		go func() { defer wg.Done(); f(aside) }()
	}
	book := newLedger()
	// A slot without a fault: what it costs is what all others are compared with.
	if _, err := r.slot(ctx, w, l, book, nil); err != nil {
		return err
	}
	before, err := w.measure(ctx)
	if err != nil {
		return err
	}
	for _, planned := range plan {
		done, err := r.slot(ctx, w, l, book, planned)
		done.Failed = err != nil
		r.result.Slots = append(r.result.Slots, done)
		if err != nil {
			return err
		}
	}
	after, err := w.measure(ctx)
	if err != nil {
		return err
	}
	r.result.Before, r.result.After = &before, &after
	r.time.say("%d calls of a method were answered", l.valve.calls)
	r.time.say("%d lines came back through %d exec streams, %d through %d of logs", l.stream.lines, l.stream.opened, l.log.lines, l.log.opened)
	return errors.Join(flat(before, after), l.given(ctx))
}

// slot has its faults happen while the workloads change, then lets all come to rest and looks at what is left.
func (r *run) slot(ctx context.Context, w *world, l *workload, book *ledger, planned []Planned) (Slot, error) {
	done := Slot{}
	var faults []Fault
	for _, p := range planned {
		done.Faults = append(done.Faults, p)
		faults = append(faults, r.table[p.Fault])
	}
	if err := l.suspend(ctx, false); err != nil {
		return done, err
	}
	living, still := context.WithCancel(ctx)
	var alive sync.WaitGroup
	alive.Add(1)
	go func() { defer alive.Done(); l.live(living) }()
	l.meters.rest(false)
	l.valve.rest(false)
	failed := make(chan error, len(planned)+1)
	for i, p := range planned {
		go func() { failed <- r.fault(ctx, w, l, p, uint64(i)) }()
	}
	if len(planned) == 0 {
		select {
		case <-ctx.Done():
		case <-time.After(calm):
		}
	}
	var err error
	for range planned {
		err = errors.Join(err, <-failed)
	}
	still()
	alive.Wait()
	l.meters.rest(true)
	l.valve.rest(true)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return done, err
	}
	over := time.Now()
	quiet := func() error { return l.suspend(ctx, true) }
	if err := until(ctx, patience, "the API server to answer", quiet); err != nil {
		return done, err
	}
	var worst string
	err = until(ctx, restWithin, "the system to come to rest", func() error {
		err := l.converged(ctx)
		if err != nil && err.Error() != worst {
			worst = err.Error()
			r.time.say("    not yet: %.300s", worst)
		}
		return err
	})
	done.Rest = time.Since(over).Round(100 * time.Millisecond).Seconds()
	if err != nil {
		return done, err
	}
	cost, err := book.account(ctx, w)
	done.Cost = cost
	r.time.say("at rest after %.1f s; %d containers started anew, %d events lost, %d doubled", done.Rest, cost.Restarted, cost.Lost, cost.Doubled)
	if err != nil {
		return done, err
	}
	return done, errors.Join(cost.allowed(faults), l.left(ctx), l.meters.wrong(), l.valve.wrong(), l.stream.wrong(), l.log.wrong(), l.witness.wrong())
}

// fault has one fault begin, last and end.
func (r *run) fault(ctx context.Context, w *world, l *workload, p Planned, salt uint64) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.After):
	}
	r.time.say("%s begins, for %s", p.Fault, p.Length)
	until, cancel := context.WithTimeout(ctx, p.Length)
	defer cancel()
	f := &fault{ctx: ctx, done: until, w: w, load: l, rand: rand.New(rand.NewPCG(r.cfg.Seed, salt<<32|uint64(p.Length)))}
	end, err := r.table[p.Fault].begin(f)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Fault, err)
	}
	<-until.Done()
	if err := end(); err != nil {
		return fmt.Errorf("end of %s: %w", p.Fault, err)
	}
	r.time.say("%s is over", p.Fault)
	return nil
}

// given returns nil when a pod of the Deployment sees what it was given last. The kubelet looks after each change of a pod.
func (l *workload) given(ctx context.Context) error {
	want, err := l.w.Admin.CoreV1().ConfigMaps(namespace).Get(ctx, "settings", metav1.GetOptions{})
	if err != nil {
		return err
	}
	pods, err := l.w.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app in (web, data)", FieldSelector: "status.phase=Running"})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		path, text := "/", want.Data["message"]
		if p.Labels["app"] == "data" {
			path, text = "/files?path=/data/kept", "kept"
		}
		err := until(ctx, 2*time.Minute, "pod "+p.Name+" to see "+text, func() error {
			if err := l.touch(ctx, p.Name); err != nil {
				return err
			}
			body, err := l.w.edge.Get(ctx, "http://"+p.Status.PodIP+":8080"+path)
			if err == nil && !strings.Contains(body, text) {
				err = fmt.Errorf("it answers %q", body)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
