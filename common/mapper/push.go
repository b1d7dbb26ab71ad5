package mapper

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// A Sample is one value that is pushed.
type Sample struct {
	Namespace, Device, Property string
	Value                       string
	Time                        time.Time
}

// A Push sends values somewhere, one at a time.
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
		{"redis", db.GetRedis() != nil}, {"tdengine", db.GetTdengine() != nil}, {"mysql", db.GetMysql() != nil}} {
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
	address := h.GetHostname()
	if h.GetPort() != 0 {
		address += ":" + strconv.FormatInt(h.GetPort(), 10)
	}
	address += h.GetRequestpath()
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("http: expected hostName with http:// or https://, port and requestPath, found %q", address)
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

// pushes are the ways of one device. They have a goroutine, so that none holds up the device.
type pushes struct {
	w     *worker
	by    map[string][]Push // by property
	queue chan Sample
	stop  context.CancelFunc
	done  chan struct{}
}

// maxWaiting bounds what waits to be pushed; more is dropped and logged.
const maxWaiting = 256

// newPushes returns nil where there is nothing to push.
func newPushes(w *worker, d Device) *pushes {
	p := &pushes{w: w, by: map[string][]Push{}, queue: make(chan Sample, maxWaiting), done: make(chan struct{})}
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
			p.by[property.Name] = append(p.by[property.Name], push)
		}
	}
	if len(p.by) == 0 {
		return nil
	}
	ctx, stop := context.WithCancel(w.ctx)
	p.stop = stop
	go p.run(ctx)
	return p
}

// add takes a value to push. It does not block.
func (p *pushes) add(s Sample) {
	if p == nil || len(p.by[s.Property]) == 0 {
		return
	}
	select {
	case p.queue <- s:
	default:
		p.w.log.Warn("a value is not pushed: too many wait", "property", s.Property)
	}
}

func (p *pushes) run(ctx context.Context) {
	defer close(p.done)
	for {
		select {
		case <-ctx.Done():
			for _, all := range p.by {
				for _, push := range all {
					if err := push.Close(); err != nil {
						p.w.log.Debug("close a push", "error", err)
					}
				}
			}
			return
		case s := <-p.queue:
			for _, push := range p.by[s.Property] {
				p.one(ctx, push, s)
			}
		}
	}
}

func (p *pushes) one(ctx context.Context, push Push, s Sample) {
	ctx, cancel := context.WithTimeout(ctx, p.w.h.Timeout)
	defer cancel()
	if err := push.Push(ctx, s); err != nil && p.w.ctx.Err() == nil {
		p.w.log.Warn("cannot push a value", "property", s.Property, "error", err)
	}
}

func (p *pushes) end() {
	if p != nil {
		p.stop()
		<-p.done
	}
}
