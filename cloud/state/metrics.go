package state

import "github.com/prometheus/client_golang/prometheus"

// metrics count what the cache does, and show what it holds when they are collected.
type metrics struct {
	c                                                                   *Cache
	lists, watches, encodes, compressions, bad, restores, lookups       *prometheus.CounterVec
	notifications                                                       prometheus.Counter
	objects, bytes, revision, nodes, subscribers, causes, held, syncing *prometheus.Desc
}

func newMetrics(c *Cache) *metrics {
	counter := func(n, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tether_state_" + n, Help: help}, append([]string{"kind"}, labels...))
	}
	desc := func(n, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tether_state_"+n, help, labels, nil)
	}
	return &metrics{
		c:            c,
		lists:        counter("list_requests_total", "LIST requests made to the API server."),
		watches:      counter("watch_requests_total", "WATCH requests made to the API server; all but the first of a kind are restarts."),
		encodes:      counter("encodes_total", "Object versions encoded."),
		compressions: counter("compressions_total", "Object versions compressed."),
		bad:          counter("bad_objects_total", "Objects that could not be taken in or read."),
		restores:     counter("revision_regressions_total", "Lists older than what was seen before: etcd was restored."),
		lookups:      counter("lookups_total", "Live reads of what a new pod refers to and the cache lacks, by outcome.", "outcome"),
		notifications: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tether_state_notifications_total", Help: "Calls made to subscribers.",
		}),
		objects:     desc("objects", "Objects held.", "kind"),
		bytes:       desc("object_bytes", "Bytes of encoded or compressed objects held.", "kind"),
		revision:    desc("revision", "resourceVersion at which the cache stands.", "kind"),
		nodes:       desc("nodes", "Nodes that something refers to."),
		subscribers: desc("subscribed_nodes", "Nodes with a subscriber."),
		causes:      desc("remembered_causes", "Pod deletions for NODE_GONE that are remembered."),
		held:        desc("awaited_objects", "Absent objects that new pods wait for."),
		syncing:     desc("synced", "1 once the first list of every kind is in."),
	}
}

func (m *metrics) counters() []prometheus.Collector {
	return []prometheus.Collector{
		m.lists, m.watches, m.encodes, m.compressions, m.bad, m.restores, m.lookups, m.notifications,
	}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.counters() {
		c.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{m.objects, m.bytes, m.revision, m.nodes, m.subscribers, m.causes, m.held, m.syncing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.counters() {
		c.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.c.mu.RLock()
	defer m.c.mu.RUnlock()
	g := m.c.g
	held := 0
	for id, k := range g.kinds {
		gauge(m.objects, float64(k.objects.Load()), string(id))
		gauge(m.bytes, float64(k.bytes.Load()), string(id))
		gauge(m.revision, float64(k.revision.Load()), string(id))
		held += len(k.waits)
	}
	gauge(m.nodes, float64(len(g.nodes)))
	gauge(m.subscribers, float64(len(g.subscribed)))
	gauge(m.causes, float64(len(g.causes.known)))
	gauge(m.held, float64(held))
	synced := 0.0
	if g.synced {
		synced = 1
	}
	gauge(m.syncing, synced)
}
