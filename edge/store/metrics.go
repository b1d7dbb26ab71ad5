package store

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/object"
)

type metrics struct {
	registerer prometheus.Registerer
	all        []prometheus.Collector

	commits  prometheus.Histogram
	outbox   *prometheus.GaugeVec
	lost     *prometheus.CounterVec
	messages *prometheus.CounterVec
	bad      prometheus.Counter
	unfit    prometheus.Counter
	watchers prometheus.Gauge
	slow     prometheus.Counter
	damaged  prometheus.Counter
	salvaged prometheus.Counter
	copied   prometheus.Gauge
	copyFail prometheus.Counter
	size     prometheus.Gauge
	written  *prometheus.CounterVec
	hour     prometheus.Gauge
	budget   prometheus.Gauge

	unreadable prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	const ns, sub = "tether", "store"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: name, Help: help})
	}
	m := &metrics{
		registerer: r,
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "commit_seconds",
			Help: "Time from the start of a transaction to its commit.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
		outbox: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "outbox_bytes",
			Help: "Bytes of writes that wait for the cloud, by class."}, []string{"class"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "lost_messages_total",
			Help: "Messages that went undelivered, by class and reason."}, []string{"class", "reason"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "messages_total",
			Help: "Outgoing writes on the disk: found there at start, accepted, answered by the cloud for good, replaced by a newer one of their object; by class. What is left of them was lost, or waits."}, []string{"class", "what"}),
		bad:      counter("bad_objects_total", "Objects from the cloud that could not be stored."),
		unfit:    counter("unfit_objects_total", "Objects from the cloud for which the disk had no room."),
		watchers: gauge("watchers", "Open watches."),
		slow:     counter("slow_watchers_total", "Watches closed because their reader fell too far behind."),
		damaged:  counter("damaged_total", "Times that the database was found damaged at start."),
		salvaged: counter("salvaged_writes_total", "Outgoing writes saved from damaged databases."),
		copied:   gauge("copy_timestamp_seconds", "When the second copy was made, in seconds since 1970."),
		copyFail: counter("copy_failures_total", "Refreshes of the second copy that failed."),
		size:     gauge("file_bytes", "Size of the database file."),
		written: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "written_bytes_total",
			Help: "Bytes that SQLite wrote into the database, its log and its copy, by what they were written for."}, []string{"what"}),
		hour:   gauge("written_hour_bytes", "Bytes that SQLite wrote within the last hour."),
		budget: gauge("write_budget_bytes", "Bytes that SQLite is to write within an hour at most; 0 for no bound."),

		unreadable: gauge("unreadable_rows", "Stored Secrets and tokens whose key is lost and that the cloud has not sent again."),
	}
	m.all = []prometheus.Collector{m.commits, m.outbox, m.lost, m.messages, m.bad, m.unfit, m.watchers, m.slow, m.damaged, m.salvaged, m.copied, m.copyFail, m.size, m.written, m.hour, m.budget, m.unreadable}
	if r == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := r.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, fmt.Errorf("store: register metrics: %w", err)
		}
	}
	return m, nil
}

// found counts what waited at start.
func (m *metrics) found(writes [classes]int64) {
	for class, n := range writes {
		m.messages.WithLabelValues(className(object.Class(class)), "found").Add(float64(n))
	}
}

// moved counts what a transaction did to the outbox.
func (m *metrics) moved(flows *[classes]flow) {
	for class, f := range flows {
		for what, n := range map[string]int{"accepted": f.accepted, "answered": f.answered, "replaced": f.replaced} {
			if n > 0 {
				m.messages.WithLabelValues(className(object.Class(class)), what).Add(float64(n))
			}
		}
	}
}

func (m *metrics) unregister() {
	if m == nil || m.registerer == nil {
		return
	}
	for _, c := range m.all {
		m.registerer.Unregister(c)
	}
}
