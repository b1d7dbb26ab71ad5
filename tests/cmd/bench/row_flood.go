package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sync/errgroup"
)

// The flood: so many reports a second, evenly over so many devices of so many properties, which share so many connections.
const (
	floodRate       = 1000
	floodDevices    = 200
	floodProperties = 4
	floodClients    = 50
	floodTime       = 5 * time.Minute
	quickFloodTime  = 40 * time.Second
	// floodAhead is how many reports of a connection may be without an answer. Where it is reached they wait, as device software
	// would, and the row says how many that cost.
	floodAhead = 20
)

// What runs is looked at so often, and what grows only from then on: pools and caches fill first.
const (
	sampleEach  = 10 * time.Second
	quickSample = 2 * time.Second
	warmUp      = time.Minute
	quickWarmUp = 10 * time.Second
)

// flatLimit is what anonymous memory may grow by in a minute, in MiB, to be called flat: what a heap moves by between collections.
const flatLimit = 0.5

// measureFlood reports 1,000 values a second over 200 devices for minutes: far more than the cloud writes, so every queue on the way
// is full all the time, and what grows shows.
func measureFlood(ctx context.Context, b *bench) error {
	m, err := b.devicesSystem(ctx, floodDevices, floodProperties)
	if err != nil {
		return err
	}
	return m.down(m.flood(ctx))
}

func (m *devicesSystem) flood(ctx context.Context) error {
	long, each, warm := floodTime, sampleEach, warmUp
	if m.bench.quick {
		long, each, warm = quickFloodTime, quickSample, quickWarmUp
	}
	for i := range floodClients {
		if _, err := m.connect(ctx, fmt.Sprintf("bench-%d", i)); err != nil {
			return err
		}
	}
	series, err := newSeries(ctx, m)
	if err != nil {
		return err
	}
	f := flooder{m: m, first: time.Now(), long: long, values: make([]map[string]int, floodClients), behind: make([]time.Duration, floodClients)}
	group, gctx := errgroup.WithContext(ctx)
	for i, c := range m.clients {
		group.Go(func() error { return f.report(gctx, i, c) })
	}
	group.Go(func() error { return series.take(gctx, each, f.first.Add(long)) })
	group.Go(func() error {
		// A profile of the middle: what it costs is in the figures.
		if err := wait(gctx, long/2); err != nil {
			return err
		}
		return m.profile(gctx, m.edge, "flood", func() error { return nil })
	})
	if err := group.Wait(); err != nil {
		return err
	}
	ended := time.Now()
	want := map[string]int{}
	for _, values := range f.values {
		for name, v := range values {
			want[name] = v
		}
	}
	last, err := m.shown.sawAll(ctx, want, readyTimeout)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d reports a second over %d devices for %s", floodRate, floodDevices, long)
	m.bench.figure(Figure{What: what + ": at the end behind that rate", Unit: "s", Limit: atMost(1), Values: []float64{slices.Max(f.behind).Seconds()},
		Note: fmt.Sprintf("each was on the edge's disk before it was acknowledged; %d connections, %d reports of each on their way at most", floodClients, floodAhead)})
	m.bench.figure(Figure{What: what + ": last report to all last values in the cluster", Unit: "s", Values: []float64{max(0, last.Sub(ended).Seconds())}})
	series.figures(m.bench, what, f.first.Add(warm))
	return nil
}

// flooder is one run.
type flooder struct {
	m     *devicesSystem
	first time.Time
	long  time.Duration
	// values are the last ones reported, behind how far the last report came after its time; each by connection.
	values []map[string]int
	behind []time.Duration
}

// report sends the reports of one connection, each at its time.
func (f *flooder) report(ctx context.Context, client int, c paho.Client) error {
	f.values[client] = map[string]int{}
	const devices = floodDevices / floodClients
	each := time.Second * floodClients / floodRate
	var under []paho.Token
	for i := range int(f.long / each) {
		due := f.first.Add(time.Duration(i)*each + time.Duration(client)*each/floodClients)
		if err := wait(ctx, time.Until(due)); err != nil {
			return err
		}
		if time.Since(f.first) > f.long {
			break // an edge that cannot keep up is behind, and the rest is not made
		}
		if len(under) == floodAhead {
			if err := answered(ctx, under[0]); err != nil {
				return fmt.Errorf("report: %w", err)
			}
			under = under[1:]
		}
		f.behind[client] = time.Since(due)
		device, property := client*devices+i%devices, i/devices%floodProperties
		f.values[client][valueName(device, property)] = i + 1
		under = append(under, publish(c, deviceName(device), propertyName(property), i+1))
	}
	for _, t := range under {
		if err := answered(ctx, t); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	return nil
}

// A series is what was seen of both processes in the course of a run.
type series struct {
	m       *devicesSystem
	edgePID int
	began   sample
	samples []sample
}

// A sample is one look.
type sample struct {
	at          time.Time
	edge, cloud look
	queued      float64 // bytes that wait in the edge's outbox
	waiting     int64   // writes there
	files       float64 // MiB of the edge's database and its log
	writes      float64 // DeviceStatuses written by cloudcore since its start
	read        float64 // reports that edgecore took since its start
}

// A look is what one process uses: MiB but for goroutines and CPU.
type look struct {
	rss, anon, heap, goroutines float64
	used                        usage
}

func newSeries(ctx context.Context, m *devicesSystem) (*series, error) {
	pid, err := m.edge.CorePID()
	if err != nil {
		return nil, err
	}
	s := &series{m: m, edgePID: pid}
	s.began, err = s.look(ctx)
	return s, err
}

// take looks until a time.
func (s *series) take(ctx context.Context, each time.Duration, until time.Time) error {
	for next := time.Now().Add(each); next.Before(until); next = next.Add(each) {
		if err := wait(ctx, time.Until(next)); err != nil {
			return err
		}
		one, err := s.look(ctx)
		if err != nil {
			return err
		}
		s.samples = append(s.samples, one)
	}
	return nil
}

func (s *series) look(ctx context.Context) (one sample, err error) {
	one.at = time.Now()
	edge, err := scrape(ctx, s.m.edge.HTTPClient(answerTimeout), s.m.edge.Metrics()+"/metrics")
	if err != nil {
		return one, err
	}
	cloud, err := scrape(ctx, http.DefaultClient, s.m.CloudMetrics())
	if err != nil {
		return one, err
	}
	if one.edge, err = lookAt(s.edgePID, edge); err != nil {
		return one, err
	}
	if one.cloud, err = lookAt(s.m.Cloud.PID(), cloud); err != nil {
		return one, err
	}
	one.queued, one.writes, one.read = edge["tether_store_outbox_bytes"], cloud["tether_device_writes_total"], edge["tether_edge_device_updates_total"]
	status, err := s.m.edge.Status(ctx)
	if err != nil {
		return one, err
	}
	for _, w := range status.Outbox {
		one.waiting += w.Count
	}
	files, err := filepath.Glob(filepath.Join(s.m.edge.DataDir(), "store", "tether.db*"))
	if err != nil {
		return one, err
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil { // a copy that is being made may be gone again
			one.files += float64(info.Size()) / (1 << 20)
		}
	}
	return one, nil
}

func lookAt(pid int, metrics map[string]float64) (l look, err error) {
	if l.rss, l.anon, err = resident(pid); err != nil {
		return l, err
	}
	l.heap, l.goroutines = metrics["go_memstats_heap_inuse_bytes"]/(1<<20), metrics["go_goroutines"]
	l.used, err = used(pid)
	return l, err
}

// scrape reads metrics in Prometheus' text format; values of one name with different labels are added up.
func scrape(ctx context.Context, client *http.Client, url string) (map[string]float64, error) {
	text, err := metricsText(ctx, client, url)
	return sumMetrics(text), err
}

func metricsText(ctx context.Context, client *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("read metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("read metrics of %s: %s, %w", url, response.Status, err)
	}
	return string(text), nil
}

// metricBy returns the values of one metric by those of its only label.
func metricBy(text, name, label string) map[string]float64 {
	by := map[string]float64{}
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+"{"+label+`="`)
		if what, value, found := strings.Cut(rest, `"} `); ok && found {
			if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				by[what] = v
			}
		}
	}
	return by
}

func sumMetrics(text string) map[string]float64 {
	sums := map[string]float64{}
	for line := range strings.Lines(text) {
		end := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || end < 0 {
			continue
		}
		name, _, _ := strings.Cut(line[:end], "{")
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[end:]), 64); err == nil {
			sums[name] += v
		}
	}
	return sums
}

// figures shows what the samples after the warm-up say.
func (s *series) figures(b *bench, what string, warm time.Time) {
	rest := slices.DeleteFunc(slices.Clone(s.samples), func(x sample) bool { return x.at.Before(warm) })
	if len(rest) < 2 {
		return
	}
	values := func(of func(sample) float64) (all []float64) {
		for _, x := range rest {
			all = append(all, of(x))
		}
		return all
	}
	grows := func(of func(sample) float64) float64 {
		var at []float64
		for _, x := range rest {
			at = append(at, x.at.Sub(rest[0].at).Minutes())
		}
		return slope(at, values(of))
	}
	first, last := rest[0], rest[len(rest)-1]
	for _, p := range []struct {
		name string
		of   func(sample) look
	}{{"edgecore", func(x sample) look { return x.edge }}, {"cloudcore", func(x sample) look { return x.cloud }}} {
		b.figure(Figure{What: what + ": anonymous memory of " + p.name + " grows", Unit: "MiB/min", Limit: atMost(flatLimit), Values: []float64{grows(func(x sample) float64 { return p.of(x).anon })},
			Note: fmt.Sprintf("least squares over %d samples; heap in use: %s MiB/min", len(rest), number(grows(func(x sample) float64 { return p.of(x).heap })))})
		b.figure(Figure{What: what + ": " + p.name + " resident", Unit: "MiB", Values: values(func(x sample) float64 { return p.of(x).rss }), Note: "before: " + number(p.of(s.began).rss)})
		b.figure(Figure{What: what + ": " + p.name + " anonymous", Unit: "MiB", Values: values(func(x sample) float64 { return p.of(x).anon }), Note: "before: " + number(p.of(s.began).anon)})
		b.figure(Figure{What: what + ": " + p.name + " heap in use", Unit: "MiB", Values: values(func(x sample) float64 { return p.of(x).heap }), Note: "before: " + number(p.of(s.began).heap)})
		b.figure(Figure{What: what + ": " + p.name + " goroutines", Values: values(func(x sample) float64 { return p.of(x).goroutines }), Note: "before: " + number(p.of(s.began).goroutines)})
		b.figure(Figure{What: what + ": CPU of " + p.name, Unit: "% of a core", Values: []float64{p.of(last).used.since(p.of(first).used)}})
	}
	rate := func(of func(sample) float64) float64 {
		return (of(last) - of(first)) / last.at.Sub(first.at).Seconds()
	}
	b.figure(Figure{What: what + ": reports that the edge took", Unit: "1/s", Values: []float64{rate(func(x sample) float64 { return x.read })}})
	b.figure(Figure{What: what + ": writes to the API server", Unit: "1/s", Values: []float64{rate(func(x sample) float64 { return x.writes })}})
	b.figure(Figure{What: what + ": statuses in the edge's outbox", Values: values(func(x sample) float64 { return float64(x.waiting) })})
	b.figure(Figure{What: what + ": bytes in the edge's outbox", Unit: "KB", Values: values(func(x sample) float64 { return x.queued / 1e3 })})
	b.figure(Figure{What: what + ": files of the edge's database", Unit: "MiB", Values: values(func(x sample) float64 { return x.files })})
}

// slope is that of the line through points which has the least squares.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}
