package twins

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/mapper"
)

// A thing is a simulated device. It outlives whoever speaks to it.
type thing struct {
	name string

	mu     sync.Mutex // guards all below
	values map[string]string
	writes []write
	opens  int
}

// A write is one that the device got.
type write struct{ property, value string }

func newThing(name string) *thing {
	return &thing{name: name, values: map[string]string{"set": "0", "mode": "0", "flow": "0", dose: "0"}}
}

// turn is a change of a property by the device itself.
func (d *thing) turn(property, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.values[property] = value
}

func (d *thing) value(property string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.values[property]
}

func (d *thing) write(property, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.values[property] = value
	d.writes = append(d.writes, write{property, value})
}

// forgive makes that what was written may be written once more.
func (d *thing) forgive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = nil
}

// wrong returns the writes that the device got more than once, and whether it was opened oftener than there was reason to.
func (d *thing) wrong(opens int) (out []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opens > opens {
		out = append(out, fmt.Sprintf("%s was opened %d times, expected %d at most", d.name, d.opens, opens))
	}
	count := map[write]int{}
	for _, w := range d.writes {
		if count[w]++; count[w] == 2 {
			out = append(out, fmt.Sprintf("%s: %s=%s was written more than once: %v", d.name, w.property, w.value, d.writes))
		}
	}
	return out
}

// driver is what the mapper has of a thing.
type driver struct{ *thing }

func (d driver) Read(_ context.Context, p mapper.Property) (string, error) {
	return d.value(p.Name), nil
}

func (d driver) Write(_ context.Context, p mapper.Property, value string) error {
	d.write(p.Name, value)
	return nil
}

func (driver) Close() error { return nil }

// sim is the mapper of the things that have one.
type sim struct {
	t      *testing.T
	dir    string
	things map[string]*thing
	log    *slog.Logger
	stop   func() // nil while it is down
	starts int
}

const protocol = "sim"

func (s *sim) start() {
	s.starts++
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	options := mapper.Options{Protocol: protocol, Socket: filepath.Join(s.dir, "sim.sock"), EdgeSocket: filepath.Join(s.dir, "dmi.sock"), RetryMax: 200 * time.Millisecond, Log: s.log,
		Open: func(_ context.Context, d mapper.Device) (mapper.Driver, error) {
			t := s.things[d.Name]
			if t == nil {
				return nil, fmt.Errorf("there is no thing %q", d.Name)
			}
			t.mu.Lock()
			t.opens++
			t.mu.Unlock()
			return driver{t}, nil
		}}
	go func() { done <- mapper.Run(ctx, options) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the mapper ended: %v", err)
		}
	})
}

func (s *sim) end() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}
