package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// deaf has a device take what is written to it and do nothing.
func (p *plant) deaf(device string) {
	p.on(func(call, key string) error {
		if call == "write" && strings.HasPrefix(key, device+"/") {
			return errDeaf
		}
		return nil
	})
}

// errDeaf is no error to the mapper: the write succeeds, and nothing comes of it.
var errDeaf = errors.New("deaf")

func TestAValueThatTheDeviceRefusesIsWrittenOnceAndTheEdgeIsToldWhy(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("stubborn", "45")}
	p.on(func(call, key string) error {
		if call == "write" {
			return fmt.Errorf("%w: expected at most 40, found 45%s", ErrProperty, strings.Repeat("\u00df\xff", maxRefusal))
		}
		return nil
	})
	p.set("stubborn/set", "7")
	client := e.run(p)
	wait(t, "the refusal", func() (any, bool) {
		for _, r := range e.heard() {
			if strings.HasPrefix(r, "stubborn set=7 wanted 45: expected at most 40, found 45") {
				return r, len(r) < 2*maxRefusal
			}
		}
		return e.heard(), false
	})
	e.waitFor("stubborn is unhealthy")
	e.pass(p, "stubborn", 20) // the other property lives on
	if n := p.count(p.writes, "stubborn/set"); n != 1 {
		t.Errorf("it was written %d times, expected once", n)
	}
	p.on(nil)
	if _, err := client.UpdateDevice(t.Context(), &dmi.UpdateDeviceRequest{Device: newDevice("stubborn", "40")}); err != nil {
		t.Fatal(err)
	}
	e.waitFor("stubborn set=40 wanted 40")
	e.waitFor("stubborn is online")
}

func TestAValueThatADeviceTakesAndDoesNotHaveIsNotWrittenAgain(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	p.deaf("pump")
	p.set("pump/set", "7")
	e.run(p)
	e.waitFor(`pump set=7 wanted 45: expected "45", found "7" 1s after it was written`)
	e.waitFor("pump is unhealthy")
	if n := p.count(p.writes, "pump/set"); n != 1 {
		t.Errorf("it was written %d times, expected once", n)
	}
	// A device that takes its time, or that somebody helps, has it in the end.
	p.set("pump/set", "45")
	e.waitFor("pump set=45 wanted 45")
	e.waitFor("pump is online")
}

func TestADeviceThatIsLostWhileItIsWrittenIsWrittenAFewTimes(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	p.on(func(call, key string) error {
		if call == "write" {
			return errors.New("cable cut")
		}
		return nil
	})
	p.set("pump/set", "7")
	e.run(p)
	e.waitFor("pump set=7 wanted 45: the device was lost 5 times while it was written")
	e.pass(p, "pump", 20)
	if n := p.count(p.writes, "pump/set"); n != maxWrites {
		t.Errorf("it was written %d times, expected %d", n, maxWrites)
	}
}

// direct is a client of an edge without a network in between.
type direct struct {
	dmi.DeviceManagerServiceClient
	e *edge
}

func (d direct) ReportDeviceStatus(ctx context.Context, r *dmi.ReportDeviceStatusRequest, _ ...grpc.CallOption) (*dmi.ReportDeviceStatusResponse, error) {
	return d.e.ReportDeviceStatus(ctx, r)
}

func (d direct) ReportDeviceStates(ctx context.Context, r *dmi.ReportDeviceStatesRequest, _ ...grpc.CallOption) (*dmi.ReportDeviceStatesResponse, error) {
	return d.e.ReportDeviceStates(ctx, r)
}

func TestAValueThatLostTheDeviceIsTriedAgainOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p := &edge{t: t}, newPlant()
		p.on(func(call, key string) error {
			if call == "write" {
				return errors.New("cable cut")
			}
			return nil
		})
		p.set("pump/set", "7")
		ctx, stop := context.WithCancel(t.Context())
		h := &host{Options: Options{Open: p.Open, Timeout: time.Second, RetryMax: time.Second, Log: slog.New(slog.DiscardHandler)}, ctx: ctx, edge: direct{e: e},
			models: map[string]*dmi.DeviceModel{"default/m": testModel}, devices: map[string]*worker{}}
		desire := func(value string) {
			t.Helper()
			d := newDevice("pump", value)
			for _, property := range d.Spec.Properties {
				property.CollectCycle = 10_000
			}
			if err := h.put(d, true); err != nil {
				t.Fatal(err)
			}
		}
		desire("45")
		writes := func(after string, want int) {
			t.Helper()
			synctest.Wait()
			if n := p.count(p.writes, "pump/set"); n != want {
				t.Errorf("after %s it was written %d times, expected %d", after, n, want)
			}
		}
		time.Sleep(restWrites * 9 / 10)
		writes("less than an hour", maxWrites)
		time.Sleep(restWrites / 5)
		writes("an hour", maxWrites+1)
		time.Sleep(restWrites)
		writes("two", maxWrites+2)
		if all := e.heard(); !slices.Contains(all, "pump set=7 wanted 45: the device was lost 5 times while it was written") {
			t.Errorf("the edge is told %v", all)
		}
		p.on(nil)
		time.Sleep(restWrites)
		writes("three", maxWrites+3)
		if all := e.heard(); !slices.Contains(all, "pump set=45 wanted 45") {
			t.Errorf("once the cable is mended the edge is told %v", all)
		}
		// What the device itself refuses in the end is not written again.
		p.on(func(call, key string) error {
			switch {
			case call != "write":
				return nil
			case p.count(p.writes, key) < 2*maxWrites+3:
				return errors.New("cable cut")
			}
			return fmt.Errorf("%w: too cold", ErrProperty)
		})
		desire("2")
		time.Sleep(5 * restWrites)
		writes("eight", 2*maxWrites+3)
		stop()
		h.all.Wait()
	})
}

func TestADeviceMayTakeItsTimeToHaveWhatWasWritten(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "45")}
	written, reads := false, 0 // of the device's goroutine
	p.on(func(call, key string) error {
		switch {
		case call == "write":
			written = true
			return errDeaf
		case written && key == "pump/set":
			if reads++; reads == 4 {
				p.set(key, "45")
			}
		}
		return nil
	})
	p.set("pump/set", "7")
	e.run(p, func(o *Options) { o.Timeout = time.Minute })
	e.waitFor("pump set=45 wanted 45")
	for _, r := range e.heard() {
		if strings.Contains(r, "wanted 45:") || strings.Contains(r, "unhealthy") {
			t.Errorf("it was not waited for: %s", r)
		}
	}
}
