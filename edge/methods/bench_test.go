package methods

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/twin"
)

// A bench is a desk without its port, for tests that wait until nobody moves.
type bench struct {
	*testing.T
	*plant
	stop func()
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, plant: newPlant()}
	b.boiler("b1")
	b.start()
	return b
}

func (b *bench) start() {
	b.Helper()
	b.plant.server = New(Config{}, Deps{Devices: b.plant, Memory: b.plant, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	desk := b.plant.server.desk
	if err := desk.load(b.Context()); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	desk.live(ctx)
	b.stop = func() {
		cancel()
		desk.rest()
	}
}

// asks asks for the method heat, as both, with a key, and returns once nobody moves.
func (b *bench) asks() <-chan answer {
	b.Helper()
	v, refused := b.plant.server.desk.take(ask{namespace: "plant", name: "b1", method: "heat", key: "k", timeout: time.Minute,
		given: map[string]literal{"setpoint": {text: "50", kind: number}, "fan": {text: "true", kind: boolean}}})
	if refused != nil {
		b.Fatal(refused)
	}
	c := make(chan answer, 1)
	go func() {
		defer v.leave()
		c <- b.plant.server.desk.wait(b.Context(), v, time.Minute)
	}()
	synctest.Wait()
	return c
}

// reports begins a report of what a property has, as it is desired, and returns what stores it.
func (b *bench) reports(ctx context.Context, property, value string) (store func(), err error) {
	notes, said, err := b.plant.server.Reporting(ctx, "plant", "b1", b.twins("b1", property, value, value))
	if err != nil {
		return nil, err
	}
	return func() {
		b.edit(func() { b.keep(notes) })
		said(nil)
	}, nil
}

// wrote says how often the desk wrote by itself.
func (b *bench) wrote(n int) {
	b.Helper()
	b.edit(func() {
		if b.writes != n {
			b.Errorf("%d writes, expected %d", b.writes, n)
		}
	})
}

// A mapper may report each property by itself, all at a time.
func TestReportsAtATimeAreKeptTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.asks()
		first, err := b.reports(t.Context(), "fan", "true")
		if err != nil {
			t.Fatal(err)
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.reports(hasty, "setpoint", "50"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("expected the context's error, found %v", err)
		}
		if store, err := b.reports(t.Context(), "flow", "3"); err != nil { // which no call waits for
			t.Error(err)
		} else {
			store()
		}
		go func() {
			if second, err := b.reports(t.Context(), "setpoint", "50"); err != nil {
				t.Error(err)
			} else {
				second()
			}
		}()
		synctest.Wait()
		first()
		if a := <-c; a.Code != http.StatusOK {
			t.Errorf("found %+v", a)
		}
		b.wrote(0) // but with the reports
		b.stop()
		b.start()
		c = b.asks()
		select {
		case a := <-c:
			if a.Code != http.StatusOK {
				t.Errorf("after a restart: %+v", a)
			}
		default:
			t.Error("after a restart the call that was answered with 200 waits")
		}
		b.stop()
	})
}

// All who wait hear of a conflict once it is on the disk, and nobody if it cannot be.
func TestAConflictIsToldOnceItIsOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		all := []<-chan answer{b.asks(), b.asks()}
		disk := make(chan struct{})
		desire := func(value string) {
			b.edit(func() {
				next := twin.Property{Own: true, Cloud: &twin.Value{Value: value}}
				b.devices["plant/b1"].Properties["setpoint"] = &next
				b.plant.server.Changed("plant", "b1", map[string]*twin.Property{"setpoint": &next})
			})
		}
		hears := func(code int, all ...<-chan answer) {
			t.Helper()
			for _, c := range all {
				if a := <-c; a.Code != code || a.Call == "" {
					t.Errorf("expected %d, found %+v", code, a)
				}
			}
		}
		b.edit(func() { b.block, b.failing = disk, errors.New("the disk is full") })
		desire("60")
		all = append(all, b.asks())
		for i, c := range all {
			if len(c) > 0 {
				t.Errorf("request %d was answered before the disk was", i)
			}
		}
		close(disk)
		hears(http.StatusServiceUnavailable, all...)
		b.wrote(1) // for all of them
		b.edit(func() { b.block, b.failing = nil, nil })
		hears(http.StatusConflict, b.asks())
		b.stop()
		b.start()
		desire("50")
		hears(http.StatusConflict, b.asks())
		b.stop()
	})
}
