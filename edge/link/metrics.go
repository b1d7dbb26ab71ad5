package link

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	items, delivered, failed, bytesOut, streams prometheus.Counter
	attempts, connects                          *prometheus.CounterVec // by protocol
}

func newMetrics(reg prometheus.Registerer, connected func() bool) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tether", Subsystem: "link", Name: name, Help: help})
	}
	byProtocol := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tether", Subsystem: "link", Name: name, Help: help}, []string{"protocol"})
	}
	m := &metrics{
		attempts:  byProtocol("dial_attempts_total", "Attempts to reach a CloudCore."),
		connects:  byProtocol("connects_total", "Sessions that were opened."),
		items:     counter("received_items_total", "Objects and deletes committed from the cloud."),
		delivered: counter("delivered_writes_total", "Queued writes that got a final answer."),
		failed:    counter("failed_writes_total", "Times that a queued write was not taken and is tried again."),
		streams:   counter("tunnel_streams_total", "Streams that the cloud opened to this node's kubelet."),
		bytesOut:  counter("sent_bytes_total", "Bytes of frames sent to the cloud, before TLS."),
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "link", Name: "connected",
		Help: "1 while a session with a CloudCore is open."}, func() float64 {
		if connected() {
			return 1
		}
		return 0
	})
	reg.MustRegister(m.attempts, m.connects, m.items, m.delivered, m.failed, m.bytesOut, m.streams, up)
	return m
}
