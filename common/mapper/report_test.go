package mapper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

func TestAValueThatNoReportCanHoldCostsItsPropertyOnly(t *testing.T) {
	for _, c := range []struct{ what, value, why string }{
		{"bytes that are no text", "hi\xff\xfe", `pump set=: expected text in UTF-8, found "hi\xff\xfe"`},
		{"a long one", strings.Repeat("x", 70_000), "pump set=: expected a value of at most 65536 bytes, found 70000"},
	} {
		t.Run(c.what, func(t *testing.T) {
			e, p := newEdge(t), newPlant()
			e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "")}
			p.set("pump/set", c.value)
			client := e.run(p)
			e.waitFor(c.why)
			e.waitFor("pump is unhealthy")
			e.pass(p, "pump", 5)
			// What is desired takes its place.
			if _, err := client.UpdateDevice(t.Context(), &dmi.UpdateDeviceRequest{Device: newDevice("pump", "40")}); err != nil {
				t.Fatal(err)
			}
			e.waitFor("pump set=40 wanted 40")
			e.waitFor("pump is online")
		})
	}
}

func TestWhyAPropertyIsNotReadIsReported(t *testing.T) {
	e, p := newEdge(t), newPlant()
	e.models, e.devices = []*dmi.DeviceModel{testModel}, []*dmi.Device{newDevice("pump", "")}
	p.on(func(call, key string) error {
		if call == "read" && key == "pump/set" {
			return fmt.Errorf("%w: no register 7", ErrProperty)
		}
		return nil
	})
	p.set("pump/set", "7")
	e.run(p)
	e.waitFor("pump set=: no register 7")
	p.on(nil)
	e.waitFor("pump set=7")
	e.waitFor("pump is online")
}

// choosy is an edge that refuses reports with a value that is too long for it.
type choosy struct {
	direct
	mu             sync.Mutex // guards all below
	room           int
	calls, largest int
}

// counted returns the calls since the last time, and how many properties the largest had.
func (c *choosy) counted() (calls, largest int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls, c.calls = c.calls, 0
	return calls, c.largest
}

// widen makes room for values of n bytes.
func (c *choosy) widen(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = n
}

func (c *choosy) ReportDeviceStatus(ctx context.Context, r *dmi.ReportDeviceStatusRequest, o ...grpc.CallOption) (*dmi.ReportDeviceStatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	c.largest = max(c.largest, len(r.GetReportedDevice().GetTwins()))
	for _, t := range r.GetReportedDevice().GetTwins() {
		if len(t.GetReported().GetValue()) > c.room {
			return nil, status.Errorf(codes.InvalidArgument, "no room for %s", t.GetPropertyName())
		}
	}
	return c.direct.ReportDeviceStatus(ctx, r, o...)
}

func TestAValueThatTheEdgeRefusesIsOfferedAgainAndHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p := &edge{t: t}, newPlant()
		c := &choosy{direct: direct{e: e}, room: 10}
		ctx, stop := context.WithCancel(t.Context())
		h := &host{Options: Options{Open: p.Open, Timeout: time.Second, RetryMax: time.Second, Log: slog.New(slog.DiscardHandler)}, ctx: ctx, edge: c,
			models: map[string]*dmi.DeviceModel{}, devices: map[string]*worker{}}
		const many = 64
		m := &dmi.DeviceModel{Name: "m", Namespace: "default", Spec: &dmi.DeviceModelSpec{}}
		d := newDevice("pump", "")
		d.Spec.Properties = nil
		for i := range many {
			name := fmt.Sprintf("p%d", i)
			m.Spec.Properties = append(m.Spec.Properties, &dmi.ModelProperty{Name: name, Type: "STRING", AccessMode: "ReadOnly"})
			d.Spec.Properties = append(d.Spec.Properties, &dmi.DeviceProperty{Name: name, CollectCycle: 1000})
			p.set("pump/"+name, "short")
		}
		p.set("pump/p40", strings.Repeat("x", 11))
		h.models["default/m"] = m
		if err := h.put(d, true); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		heard := e.heard()
		for _, want := range []string{"pump p0=short", "pump p63=short", "pump p40=: no room for p40", "pump is unhealthy"} {
			if !slices.Contains(heard, want) {
				t.Errorf("expected %q, found %v", want, heard)
			}
		}
		if calls, largest := c.counted(); calls > 20 || largest != many {
			t.Errorf("%d calls of at most %d properties, expected all at once, then halves", calls, largest)
		}
		time.Sleep(offerAgain * 9 / 10)
		synctest.Wait()
		if calls, _ := c.counted(); calls != 0 {
			t.Errorf("it was offered again at once, %d times", calls)
		}
		c.widen(11)
		time.Sleep(offerAgain / 5)
		synctest.Wait()
		if heard := e.heard(); !slices.Contains(heard, "pump p40="+strings.Repeat("x", 11)) || heard[len(heard)-1] != "pump is online" {
			t.Errorf("it was not offered again: %v", heard[len(heard)-2:])
		}
		// The state goes though values do not.
		e.mu.Lock()
		e.deaf = true
		e.mu.Unlock()
		p.set("pump/p1", "other")
		time.Sleep(1500 * time.Millisecond) // it is read, and not taken
		p.on(func(string, string) error { return errors.New("cable cut") })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if heard := e.heard(); heard[len(heard)-1] != "pump is offline" {
			t.Errorf("found %v", heard[len(heard)-2:])
		}
		stop()
		h.all.Wait()
	})
}

func TestALostDeviceWhoseReportsAreNotTakenCostsNoProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, p := &edge{t: t, deaf: true}, newPlant()
		p.set("pump/set", "7")
		ctx, stop := context.WithCancel(t.Context())
		h := &host{Options: Options{Open: p.Open, Timeout: time.Second, RetryMax: time.Hour, Log: slog.New(slog.DiscardHandler)}, ctx: ctx, edge: direct{e: e},
			models: map[string]*dmi.DeviceModel{"default/m": testModel}, devices: map[string]*worker{}}
		if err := h.put(newDevice("pump", ""), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second / 2)
		p.on(func(string, string) error { return errors.New("cable cut") })
		time.Sleep(10 * time.Minute)
		e.mu.Lock()
		if e.refused < 60 || e.refused > 610 {
			t.Errorf("%d reports in ten minutes, expected about one a second", e.refused)
		}
		e.mu.Unlock()
		stop()
		h.all.Wait()
	})
}
