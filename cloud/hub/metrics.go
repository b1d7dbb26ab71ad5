package hub

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// metrics are the hub's. Nothing is labelled by node but what edges report of losses, which is rare.
type metrics struct {
	restores, bytesOut, items, streams, abandoned, moved prometheus.Counter
	connects, refused, frames, writes                    *prometheus.CounterVec
	dropped                                              *prometheus.GaugeVec
	writeSeconds                                         prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, sessions func(transport.Protocol) int, budgets map[string]*budget) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tether", Subsystem: "hub", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tether", Subsystem: "hub", Name: name, Help: help}, labels)
	}
	m := &metrics{
		connects:  vec("connects_total", "Sessions that were opened.", "protocol"),
		restores:  counter("restores_total", "Times the API server was found older than what an edge had seen."),
		bytesOut:  counter("sent_bytes_total", "Bytes of frames sent to edges, before TLS."),
		streams:   counter("tunnel_streams_total", "Streams opened to the kubelets of edges."),
		abandoned: counter("abandoned_total", "Connections that their edges left before the Hello: mostly attempts of which another one was first."),
		moved:     counter("moved_total", "Sessions ended so that their edges connect to another CloudCore, which has fewer."),
		items:     counter("sent_items_total", "Objects and deletes sent to edges."),
		refused:   vec("refused_total", "Connections that were refused, told to come later, or ended for a fault of the edge.", "reason"),
		frames:    vec("frames_total", "Frames by direction and type.", "direction", "type"),
		writes:    vec("writes_total", "Edge writes applied to the API server.", "op", "code"),
		dropped: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "hub", Name: "edge_dropped_messages",
			Help: "Queued messages that an edge dropped since its store was made, as it reports them."}, []string{"node", "class"}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tether", Subsystem: "hub", Name: "write_seconds",
			Help: "Time from an edge's write to the API server's answer.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}),
	}
	for _, p := range []transport.Protocol{transport.WebSocket, transport.QUIC} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "hub", Name: "sessions",
			Help: "Edges connected now.", ConstLabels: prometheus.Labels{"protocol": string(p)}}, func() float64 { return float64(sessions(p)) }))
	}
	for of, b := range budgets {
		gauge := func(name, help string, value func() float64) {
			reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "hub", Name: name, Help: help,
				ConstLabels: prometheus.Labels{"of": of}}, value))
		}
		gauge("held_bytes", "What all edges sent that is not answered yet, decompressed, and replies that they have not read, with room for those that are asked for.",
			func() float64 { return float64(b.used.Load()) })
		gauge("waiting_sessions", "Sessions that wait until less is held.", func() float64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return float64(len(b.waiting))
		})
		gauge("held_bytes_limit", "Where nothing large is read any more (a quarter of hub.maxHeldBytes), or asked for (half of it).", func() float64 { return float64(b.limit) })
	}
	reg.MustRegister(m.connects, m.restores, m.abandoned, m.moved, m.streams, m.bytesOut, m.items, m.refused, m.frames, m.writes, m.dropped, m.writeSeconds)
	return m
}

func (m *metrics) sent(f *wire.Frame) {
	m.frames.WithLabelValues("out", wire.Name(f)).Inc()
	if b := f.GetBatch(); b != nil {
		m.items.Add(float64(len(b.Items)))
	}
}

func (m *metrics) edgeDropped(node string, dropped []uint64) {
	for class, n := range dropped {
		if n > 0 && class < len(wire.MessageClass_name) {
			m.dropped.WithLabelValues(node, wire.MessageClass(class).String()).Set(float64(n))
		}
	}
}

// written counts a write. An edge may send any op: those that the protocol lacks share a label.
func (m *metrics) written(op wire.Op, code int32, took time.Duration) {
	name, ok := wire.Op_name[int32(op)]
	if !ok {
		name = "unknown"
	}
	m.writes.WithLabelValues(name, strconv.Itoa(int(code))).Inc()
	m.writeSeconds.Observe(took.Seconds())
}
