package mapper

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// counter is a driver of which each reading is one more.
type counter struct{ n int }

func (c *counter) Read(context.Context, Property) (string, error) {
	c.n++
	return fmt.Sprint(c.n), nil
}

func (*counter) Write(context.Context, Property, string) error { return nil }
func (*counter) Close() error                                  { return nil }

type pushed struct{ to *[]string }

func (p pushed) Push(_ context.Context, s Sample) error {
	*p.to = append(*p.to, s.Value)
	return nil
}

func (pushed) Close() error { return nil }

func TestAReportCycleBoundsPushes(t *testing.T) {
	for _, c := range []struct {
		cycle time.Duration
		want  []string // of ten readings, a second apart
	}{
		{0, []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}},
		{3 * time.Second, []string{"1", "4", "7", "10"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var got []string
			ctx, cancel := context.WithCancel(t.Context())
			h := &host{ctx: ctx, Options: Options{Log: slog.New(slog.DiscardHandler), Timeout: time.Second,
				Push: map[string]NewPush{"mqtt": func(*dmi.PushMethod) (Push, error) { return pushed{&got}, nil }}}}
			w := newWorker(h, "plant/pump")
			p := Property{Name: "flow", Report: c.cycle, push: &dmi.PushMethod{Mqtt: &dmi.PushMethodMQTT{}}}
			w.driver, w.now = &counter{}, Device{Namespace: "plant", Name: "pump", Properties: []Property{p}}
			w.push = newPushes(w, w.now)
			v := &value{}
			for range 10 {
				if err := w.read(p, v); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				time.Sleep(time.Second)
			}
			cancel()
			w.push.end(w.log)
			if !slices.Equal(got, c.want) {
				t.Errorf("cycle %v: pushed are %v, expected %v", c.cycle, got, c.want)
			}
		})
	}
}
