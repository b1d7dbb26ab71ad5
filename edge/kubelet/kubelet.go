package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const (
	// stableAfter is how long the kubelet must go on after its status and its CSINode were accepted for a start to
	// count as done: long enough for its servers and managers to have ended the process if they were going to.
	stableAfter = 30 * time.Second

	// Looks at the host and the runtime are this far apart, growing from the first to the second: a runtime that
	// comes up beside us after a boot is noticed at once, an absent one costs nothing.
	minPoll, maxPoll = 50 * time.Millisecond, time.Second
)

// ErrStartedBefore is returned by a second Start in one process: upstream's kubelet cannot be started again.
var ErrStartedBefore = errors.New("the kubelet can be started once in a process")

// started guards the process-wide state of which this package is the owner.
var started atomic.Bool

// Kubelet is the stock kubelet and the care around its start.
type Kubelet struct {
	cfg        Config
	restConfig *rest.Config
	waitReady  func(context.Context) error
	starting   func(running []types.UID)
	onChange   func(Status)
	log        *slog.Logger
	clock      Clock
	marks      *marks
	inside     *inside

	mu     sync.Mutex // guards status
	status Status

	// locates: the address is not configured; seen is another one than the node's at the last look. Both belong to run.
	locates bool
	seen    string

	// What tests replace.
	detect  func() (Host, error)
	address func() (net.IP, error)
	kmsg    string
	launch  func(ctx context.Context, host Host, driver string, o *observer) error
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// New checks cfg, the kubelet's own validation included, and starts nothing. The error lists every fault found.
func New(cfg Config, deps Deps) (*Kubelet, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	if deps.RESTConfig == nil || deps.Log == nil {
		return nil, errors.New("kubelet: expected a RESTConfig and a Log, found none")
	}
	if _, err := stockOptions(cfg, Host{SysResource: true}, CgroupDriverCgroupfs); err != nil {
		return nil, err
	}
	k := &Kubelet{
		cfg: cfg, restConfig: deps.RESTConfig, waitReady: deps.WaitReady, starting: deps.Starting, onChange: deps.OnChange, log: deps.Log, clock: deps.Clock,
		detect: func() (Host, error) { return DetectHost("/") }, address: routeAddress,
		kmsg: "/dev/kmsg", inside: newInside(cfg.Port),
	}
	k.launch = k.launchStock
	if k.clock == nil {
		k.clock = systemClock{}
	}
	k.marks = &marks{dir: cfg.StateDir, killed: deps.Killed}
	k.status = Status{State: StateWaitingSync, Since: k.clock.Now()}
	if deps.Registerer != nil {
		if err := k.register(deps.Registerer); err != nil {
			return nil, fmt.Errorf("register the kubelet's metrics: %w", err)
		}
	}
	return k, nil
}

// Start waits for what the kubelet needs and then runs it until ctx ends (nil) or the kubelet gives up with an error.
// Either way the process must end soon, since parts of the kubelet go on. It may also never return: upstream ends the
// process over some faults.
func (k *Kubelet) Start(ctx context.Context) error {
	if !started.CompareAndSwap(false, true) {
		return ErrStartedBefore
	}
	if err := routeLogs(k.log, k.cfg.Verbosity, k.marks.note); err != nil {
		return err
	}
	return k.run(ctx)
}

// run is Start without what is process-wide.
func (k *Kubelet) run(ctx context.Context) error {
	host, err := k.detect()
	if err != nil {
		k.log.Warn("host detection is incomplete", "err", err)
	}
	k.log.Info("host", "cgroupVersion", host.CgroupVersion, "controllers", host.Controllers, "systemd", host.Systemd,
		"capSysResource", host.SysResource, "swap", host.Swap)

	k.marks.boot = host.BootID
	failed, reason := k.marks.failed()
	var until time.Time
	if failed > 0 {
		until = k.clock.Now().Add(delayAfter(failed))
		k.log.Warn("the last start of the kubelet ended the process", "attempts", failed, "until", until, "reason", reason)
	}
	k.enter(StateWaitingSync, func(s *Status) { s.Attempts, s.Until, s.Reason = failed, until, reason })

	driver, err := k.await(ctx, host, until, reason)
	if err != nil {
		return nil // ctx ended before the kubelet was started: nothing to undo
	}
	k.locate()
	if err := k.announce(ctx); err != nil {
		return nil // as above
	}
	if err := k.marks.set(failed+1, k.clock.Now()); err != nil {
		k.log.Error("the start of the kubelet cannot be marked: if it ends the process, the next start is not delayed", "err", err)
	}
	k.enter(StateStarting, func(s *Status) { s.Until, s.Reason = time.Time{}, "" })
	return k.supervise(ctx, host, driver, failed)
}

// await blocks until everything that the kubelet would end the process over is there and until has come. It returns the
// cgroup driver to use, and an error only when ctx ends.
func (k *Kubelet) await(ctx context.Context, host Host, until time.Time, lastReason string) (driver string, err error) {
	if k.waitReady != nil {
		if err := k.waitReady(ctx); err != nil {
			return "", err
		}
	}
	for poll := minPoll; ; poll = min(2*poll, maxPoll) {
		state, reason := k.obstacle(ctx, &host, &driver)
		pause := poll
		if state == "" {
			pause = until.Sub(k.clock.Now())
			if pause <= 0 {
				return driver, ctx.Err()
			}
			state, reason, poll = StateDelayed, lastReason, minPoll // look again afterwards: the runtime may have gone
		}
		k.enter(state, func(s *Status) { s.Reason = reason })
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-k.clock.After(pause):
		}
	}
}

// announce tells which pods run, once the runtime says it.
func (k *Kubelet) announce(ctx context.Context) error {
	for k.starting != nil {
		running, err := RunningPods(ctx, k.cfg.RuntimeEndpoint)
		if err == nil {
			k.starting(running)
			break
		}
		k.enter(StateWaitingRuntime, func(s *Status) { s.Reason = err.Error() })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.clock.After(minPoll):
		}
	}
	return nil
}

// obstacle returns the first thing that is missing and the state that waits for it, or no state and the cgroup driver.
func (k *Kubelet) obstacle(ctx context.Context, host *Host, driver *string) (State, string) {
	if now, err := k.detect(); err == nil {
		*host = now
	}
	if err := preflight(*host, k.kmsg, k.cfg); err != nil {
		return StateWaitingHost, err.Error()
	}
	runtime, err := probeRuntime(ctx, k.cfg.RuntimeEndpoint, k.cfg.ImageServiceEndpoint)
	if err != nil {
		return StateWaitingRuntime, err.Error()
	}
	*driver = chooseDriver(k.cfg.CgroupDriver, runtime.CgroupDriver, host.Systemd)
	return "", ""
}

// chooseDriver returns the cgroup driver: the configured one, else the runtime's, else systemd where it runs.
func chooseDriver(configured, runtime string, systemd bool) string {
	switch {
	case configured != CgroupDriverAuto:
		return configured
	case runtime != "":
		return runtime
	case systemd:
		return CgroupDriverSystemd
	}
	return CgroupDriverCgroupfs
}

// supervise runs the kubelet and takes the mark away once it is stable. A stop asked for by ctx is not a failure: the mark
// goes back to what it was.
func (k *Kubelet) supervise(ctx context.Context, host Host, driver string, failed int) error {
	observer := newObserver(k.cfg.NodeName)
	ended := make(chan error, 1)
	go func() { ended <- k.launch(ctx, host, driver, observer) }()

	settled := observer.settled
	var stable <-chan time.Time
	marked := true
	var look <-chan time.Time
	if k.locates {
		look = k.clock.After(addressEvery)
	}
	for {
		select {
		case <-look:
			look = k.clock.After(addressEvery)
			err := k.moved()
			if err == nil {
				continue
			}
			if marked { // the start did not fail
				err = errors.Join(err, k.marks.clear(failed, k.clock.Now()))
			}
			return err
		case <-ctx.Done():
			if marked {
				return k.marks.clear(failed, k.clock.Now())
			}
			return nil
		case err := <-ended:
			if ctx.Err() != nil {
				ended = nil // it noticed the end of ctx before we did
				continue
			}
			if err == nil {
				err = errors.New("it ended by itself")
			}
			k.marks.note(err.Error())
			return fmt.Errorf("run the kubelet: %w", err)
		case <-settled:
			settled, stable = nil, k.clock.After(stableAfter)
			k.enter(StateRunning, func(*Status) {})
		case <-stable:
			stable, marked = nil, false
			if err := k.marks.clear(0, k.clock.Now()); err != nil {
				k.log.Error("the mark of a start that succeeded cannot be removed: the next start will be delayed", "err", err)
			}
			k.enter(StateRunning, func(s *Status) { s.Attempts = 0 })
		}
	}
}
