package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// The rest before memory is read, and the time over which idle CPU is taken.
const (
	memoryRest = 60 * time.Second
	cpuTime    = 60 * time.Second
)

// stopTimeout bounds the end of a process that was asked to end.
const stopTimeout = 30 * time.Second

// measureMemory reads edgecore's memory with 0 and 10 pods, each after a rest, and its CPU in the minute after that. The edge has a
// device of a mapper and one that speaks MQTT, both connected and at rest. Each repetition is a new edge. Its program is in the page cache as
// it was written, in large pieces, each of which the kernel maps as a whole; so edgecore is then started again from a copy that is on the disk only,
// as after a boot, with its pods running.
func measureMemory(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	api, err := s.devicesAPI()
	if err != nil {
		return s.down(err)
	}
	var rss, anon [3][]float64
	var cpu []float64
	for i := range b.times(true) {
		err := s.memoryOnce(ctx, api, fmt.Sprintf("edge-%d", i), func(state int, r, a float64) {
			rss[state], anon[state] = append(rss[state], r), append(anon[state], a)
		}, func(c float64) { cpu = append(cpu, c) })
		if err != nil {
			return s.down(err)
		}
	}
	for i, state := range []string{"0 pods", "10 pods", "10 pods, its program on the disk only before"} {
		b.figure(Figure{What: "edgecore resident, " + state, Unit: "MiB", Limit: atMost(72), Values: rss[i], Note: "with the broker, a client of it, a mapper and two devices"})
		b.figure(Figure{What: "edgecore anonymous, " + state, Unit: "MiB", Limit: atMost(30), Values: anon[i]})
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
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", kubelet.PID()))
	if err != nil {
		return fmt.Errorf("find the stock kubelet's program: %w", err)
	}
	if err := errors.Join(kubelet.Stop(stopTimeout), dropCache(program), kubelet.Restart()); err != nil {
		return err
	}
	if err := s.bench.rest(ctx, memoryRest); err != nil {
		return err
	}
	coldRSS, coldAnon, err := resident(kubelet.PID())
	if err != nil {
		return err
	}
	s.bench.figure(Figure{What: "for comparison: stock kubelet resident, 10 pods", Unit: "MiB", Values: []float64{rss}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet anonymous, 10 pods", Unit: "MiB", Values: []float64{anon}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet resident, 10 pods, its program on the disk only before", Unit: "MiB", Values: []float64{coldRSS}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet anonymous, 10 pods, its program on the disk only before", Unit: "MiB", Values: []float64{coldAnon}})
	s.bench.figure(Figure{What: "for comparison: stock kubelet idle CPU, 10 pods", Unit: "% of a core", Values: []float64{percent}})
	return nil
}

func (s *system) memoryOnce(ctx context.Context, api *rest.RESTClient, name string, memory func(state int, rss, anon float64), cpu func(float64)) (err error) {
	e, err := s.edgeWith(ctx, name, func(c *v1alpha1.EdgeCore) { c.Metrics.Profiling = true })
	if err != nil {
		return err
	}
	unplug, err := s.plugDevices(ctx, api, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unplug()) }()
	if err := s.deploy(ctx, name, name); err != nil {
		return err
	}
	atRest := func(state int) error {
		if err := s.bench.rest(ctx, memoryRest); err != nil {
			return err
		}
		pid, err := e.CorePID()
		if err != nil {
			return err
		}
		rss, anon, err := resident(pid)
		memory(state, rss, anon)
		return err
	}
	for i, pods := range []int{0, 10} {
		if _, err := s.scale(ctx, name, pods); err != nil {
			return err
		}
		if err := atRest(i); err != nil {
			return err
		}
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
	if err := s.startCold(ctx, e); err != nil {
		return err
	}
	if err := atRest(2); err != nil {
		return err
	}
	if _, err := s.scale(ctx, name, 0); err != nil {
		return err
	}
	return e.Supervisor.Stop(stopTimeout)
}

// startCold starts edgecore again from a copy of its program that is not in the page cache, and waits until it is in sync.
func (s *system) startCold(ctx context.Context, e *stack.Edge) error {
	program, err := s.ownEdgecore(ctx)
	if err != nil {
		return err
	}
	e.Core = program
	if err := errors.Join(e.Supervisor.Stop(stopTimeout), dropCache(program), e.StartCore(ctx)); err != nil {
		return err
	}
	return until(ctx, poll, readyTimeout, "edgecore to be in sync", func() error { return connected(ctx, e) })
}

// plugDevices connects a device of a mapper, which reports what is desired of it, and one that speaks MQTT. unplug ends the mapper and
// the client, and leaves the devices behind.
func (s *system) plugDevices(ctx context.Context, api *rest.RESTClient, e *stack.Edge) (unplug func() error, err error) {
	program, err := cluster.Program(ctx, "mapper")
	if err != nil {
		return nil, err
	}
	mapper, err := e.Start(cluster.ProcessConfig{Name: "mapper-" + e.Name(), Argv: []string{program, "virtual", "--edge-socket", e.MapperSocket(),
		"--socket", filepath.Join(filepath.Dir(e.MapperSocket()), "virtual.sock")}})
	if err != nil {
		return nil, err
	}
	unplug = func() error { return mapper.Stop(stopTimeout) }
	defer func() {
		if err != nil {
			err = errors.Join(err, unplug())
		}
	}()
	pump, meter := newDevice("pump-"+e.Name(), e.Name(), "virtual", 1), newDevice("meter-"+e.Name(), e.Name(), "mqtt", 1)
	p := &pump.Spec.Properties[0]
	p.Desired, p.CollectCycle, p.ReportCycle = &v1beta1.TwinProperty{Value: "1"}, 1000, 1000
	for protocol, d := range map[string]*v1beta1.Device{"virtual": pump, "mqtt": meter} {
		if err := s.makeDevices(ctx, api, newModel(protocol, 1), []*v1beta1.Device{d}); err != nil {
			return nil, err
		}
	}
	c, err := connectMQTT(ctx, e, "bench")
	if err != nil {
		return nil, err
	}
	unplug = func() error {
		c.Disconnect(0)
		return mapper.Stop(stopTimeout)
	}
	if err := answered(ctx, publish(c, meter.Name, propertyName(0), 1)); err != nil {
		return nil, fmt.Errorf("report %s: %w", meter.Name, err)
	}
	return unplug, until(ctx, poll, readyTimeout, "both devices to have reported", func() error {
		for _, d := range []*v1beta1.Device{pump, meter} {
			status := &v1beta1.DeviceStatus{}
			if err := api.Get().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Name(d.Name).Do(ctx).Into(status); err != nil {
				return err
			}
			if v := reportedValues(status)[valueKey(d.Name, propertyName(0))]; v != 1 {
				return fmt.Errorf("device %s has %d", d.Name, v)
			}
		}
		return nil
	})
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
