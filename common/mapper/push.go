package mapper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// A Sample is one value that is pushed.
type Sample struct {
	Namespace, Device, Property string
	Value                       string
	Time                        time.Time
}

// A Push sends values somewhere, one at a time. An error is logged, and the value not sent again unless the error wraps ErrAway.
type Push interface {
	Push(ctx context.Context, s Sample) error
	Close() error
}

// NewPush makes the push of one property. It does not reach anything yet. The error says what is wrong with the method.
type NewPush func(method *dmi.PushMethod) (Push, error)

// timeText is how KubeEdge's mappers write a time in what they push, in the machine's zone.
const timeText = "2006-01-02 15:04:05"

// Text is the time as KubeEdge's mappers write it.
func (s Sample) Text() string { return s.Time.Local().Format(timeText) }

// methods names the ways to push that a property has.
func methods(m *dmi.PushMethod) (names []string) {
	db := m.GetDbMethod()
	for _, method := range []struct {
		name string
		set  bool
	}{{"http", m.GetHttp() != nil}, {"mqtt", m.GetMqtt() != nil}, {"otel", m.GetOtel() != nil}, {"influxdb2", db.GetInfluxdb2() != nil},
		{"redis", db.GetRedis() != nil}, {"tdengine", db.GetTdengine() != nil}, {"mysql", db.GetMysql() != nil},
		{"anomalyDetection", m.GetAnomalyDetection() != nil}} {
		if method.set {
			names = append(names, method.name)
		}
	}
	return names
}

type httpPush struct {
	url     string
	timeout time.Duration
}

// newHTTPPush posts a form of the property's name and the time, as KubeEdge's mappers do.
func newHTTPPush(m *dmi.PushMethod) (Push, error) {
	h := m.GetHttp()
	address, err := device.PushURL(h.GetHostname(), h.GetPort(), h.GetRequestpath())
	if err != nil {
		return nil, err
	}
	p := &httpPush{url: address, timeout: milliseconds(h.GetTimeout())}
	if p.timeout == 0 {
		p.timeout = 5 * time.Second
	}
	return p, nil
}

func (p *httpPush) Push(ctx context.Context, s Sample) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	form := url.QueryEscape(s.Property) + "=" + url.QueryEscape(s.Value) + "&time=" + url.QueryEscape(s.Text())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(form))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if call := (*net.OpError)(nil); errors.As(err, &call) && call.Op == "dial" {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection can be used again
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("expected a status of 200 to 299, found %s", resp.Status)
	}
	return nil
}

func (p *httpPush) Close() error { return nil }

// pushes are the ways of one device. Each target has a goroutine, so that none holds up the device or another target.
type pushes struct {
	by    map[string][]*way // by property
	lanes map[string]*lane  // by target
	of    map[*way]*lane
	stop  context.CancelFunc
	all   sync.WaitGroup
}

// target names what is reached by a way to push: what makes one value wait makes the others wait, too.
func target(name string, m *dmi.PushMethod) string {
	switch name {
	case "http":
		return name + " " + m.GetHttp().GetHostname() + " " + strconv.FormatInt(m.GetHttp().GetPort(), 10)
	case "mqtt":
		return name + " " + m.GetMqtt().GetAddress()
	}
	return name
}

// newPushes returns nil where there is nothing to push.
func newPushes(w *worker, d Device) *pushes {
	p := &pushes{by: map[string][]*way{}, lanes: map[string]*lane{}, of: map[*way]*lane{}}
	for i := range d.Properties {
		property := &d.Properties[i]
		for _, name := range methods(property.push) {
			make := w.h.Push[name]
			if make == nil && name == "http" {
				make = newHTTPPush
			}
			if make == nil {
				w.log.Error("values are not pushed: this mapper does not support the method yet", "property", property.Name, "method", name)
				continue
			}
			push, err := make(property.push)
			if err != nil {
				w.log.Error("values are not pushed", "property", property.Name, "method", name, "error", err)
				continue
			}
			to := target(name, property.push)
			if p.lanes[to] == nil {
				p.lanes[to] = newLane(w.log, w.h.Timeout)
			}
			y := &way{push: push, property: property.Name}
			p.by[property.Name], p.of[y] = append(p.by[property.Name], y), p.lanes[to]
		}
	}
	if len(p.by) == 0 {
		return nil
	}
	ctx, stop := context.WithCancel(w.ctx)
	p.stop = stop
	for _, l := range p.lanes {
		p.all.Go(func() { l.run(ctx) })
	}
	return p
}

// add takes a value to push. It does not block.
func (p *pushes) add(s Sample) {
	if p == nil {
		return
	}
	for _, y := range p.by[s.Property] {
		p.of[y].add(y, s)
	}
}

// end ends the pushes, and returns the properties of which a value was still to be pushed.
func (p *pushes) end(log *slog.Logger) (waiting []string) {
	if p == nil {
		return nil
	}
	p.stop()
	p.all.Wait()
	for _, l := range p.lanes {
		waiting = append(waiting, l.waiting()...)
	}
	for y := range p.of {
		if err := y.push.Close(); err != nil {
			log.Debug("close a push", "error", err)
		}
	}
	return waiting
}

// repush makes the pushes those of the device as it is now. Where nothing of any changed all go on: a new client of a broker would take its
// time to connect. A value that was not pushed, or has another way now, is pushed at the next reading, whatever the reportCycle.
func (w *worker) repush(before []Property) {
	same := slices.EqualFunc(before, w.now.Properties, func(a, b Property) bool { return a.Name == b.Name && proto.Equal(a.push, b.push) })
	if same {
		return
	}
	old := map[string]*dmi.PushMethod{}
	for i := range before {
		old[before[i].Name] = before[i].push
	}
	waiting := w.push.end(w.log)
	for i := range w.now.Properties {
		p := &w.now.Properties[i]
		if !proto.Equal(old[p.Name], p.push) || slices.Contains(waiting, p.Name) {
			w.values[p.Name].pushed = time.Time{}
		}
	}
	w.push = newPushes(w, w.now)
}
