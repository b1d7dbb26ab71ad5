package mapper

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	kit "github.com/tether-edge/tether/common/mapper"
)

// knob is a device that has what was written to it.
type knob struct {
	mu     sync.Mutex
	values map[string]string
}

func (k *knob) Read(_ context.Context, p kit.Property) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.values[p.Name], nil
}

func (k *knob) Write(_ context.Context, p kit.Property, value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values[p.Name] = value
	return nil
}

func (k *knob) Close() error { return nil }

// runKit runs a mapper made with common/mapper whose devices outlive it.
func (e *env) runKit(knobs *sync.Map) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	options := kit.Options{Protocol: "knob", Socket: filepath.Join(e.dir, "knob.sock"), EdgeSocket: e.socket, RetryMax: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Open: func(_ context.Context, d kit.Device) (kit.Driver, error) {
			k, _ := knobs.LoadOrStore(d.Name, &knob{values: map[string]string{"get": "1"}})
			return k.(*knob), nil
		}}
	go func() { ended <- kit.Run(ctx, options) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("Run: %v", err)
		}
	})
	e.t.Cleanup(stop)
	return stop
}

func TestAMapperMadeWithTheKit(t *testing.T) {
	e := newEnv(t)
	quick := func(entry *Entry) {
		for i := range entry.Device.Spec.Properties {
			entry.Device.Spec.Properties[i].CollectCycle = 20
		}
		entry.Device.Spec.StateReport = &v1beta1.StateReport{ReportToCloud: new(true)}
	}
	reported := func(what string) {
		t.Helper()
		wait(t, what, func() (any, bool) { found := e.engine.heard(); return found, slices.Contains(found, what) })
	}
	e.put("knob", "a", "1", quick)
	knobs := &sync.Map{}
	stop := e.runKit(knobs)
	reported("default/a set=1")
	reported("default/a get=1")
	reported("default/a is online")
	e.put("knob", "b", "2", quick)
	reported("default/b set=2")
	e.put("knob", "a", "10", quick)
	reported("default/a set=10")

	// The edge restarts: the mapper goes on, and is told what changed meanwhile.
	e.stop()
	e.engine.mu.Lock()
	delete(e.engine.entries, "default/b")
	e.engine.mu.Unlock()
	e.start()
	e.put("knob", "a", "11", quick)
	e.put("knob", "c", "3", quick)
	reported("default/a set=11")
	reported("default/c set=3")
	wait(t, "the mapper to have 2 devices", func() (any, bool) { r := e.server.Registered(); return r, len(r) == 1 && r[0].Devices == 2 })

	// The mapper restarts.
	stop()
	e.isConnected("knob", false)
	e.put("knob", "a", "12", quick)
	e.runKit(knobs)
	e.isConnected("knob", true)
	reported("default/a set=12")
}

// A report of all three would be beyond the limits of one.
func TestWhatAReportCannotHoldCostsItsPropertyOnly(t *testing.T) {
	e := newEnv(t)
	e.put("knob", "a", "", func(entry *Entry) {
		entry.Model.Spec.Properties = nil
		entry.Device.Spec.Properties = nil
		for _, name := range []string{"bytes", "long", "well"} {
			entry.Model.Spec.Properties = append(entry.Model.Spec.Properties, v1beta1.ModelProperty{Name: name, Type: v1beta1.Bytes})
			entry.Device.Spec.Properties = append(entry.Device.Spec.Properties, v1beta1.DeviceProperty{Name: name, CollectCycle: 20})
		}
	})
	knobs := &sync.Map{}
	knobs.Store("a", &knob{values: map[string]string{"bytes": "\xff\xfe", "long": strings.Repeat("x", v1beta1.MaxReportedBytes), "well": "42"}})
	e.runKit(knobs)
	for _, what := range []string{"default/a well=42", `default/a bytes: expected text in UTF-8, found "\xff\xfe"`, "default/a is unhealthy",
		"default/a long=" + strings.Repeat("x", v1beta1.MaxReportedBytes)} {
		wait(t, what, func() (any, bool) { found := e.engine.heard(); return len(found), slices.Contains(found, what) })
	}
}

// A device that is not the one of the name any more, or that was away, is given to its mapper anew: of what it reported before
// nothing is known.
func TestADeviceThatIsAnotherIsReportedAnew(t *testing.T) {
	e := newEnv(t)
	born := uint64(1)
	as := func(entry *Entry) {
		entry.Born = born
		for i := range entry.Device.Spec.Properties {
			entry.Device.Spec.Properties[i].CollectCycle = 20
		}
	}
	all := []string{"default/a set=1", "default/a get=1", "default/a is online"}
	reported := func() {
		t.Helper()
		wait(t, "all values and the state", func() (any, bool) {
			found := e.engine.heard()
			return found, !slices.ContainsFunc(all, func(what string) bool { return !slices.Contains(found, what) })
		})
	}
	e.put("knob", "a", "1", as)
	e.runKit(&sync.Map{})
	reported()
	for born = 2; born < 5; born++ {
		e.engine.mu.Lock()
		e.engine.reports = nil
		e.engine.mu.Unlock()
		e.put("knob", "a", "1", as)
		reported()
	}
}
