package mapper

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"
)

type metrics struct {
	registered             prometheus.Gauge
	connected, devices     *prometheus.GaugeVec // by protocol, of which there are at most MaxMappers
	calls, served, retries *prometheus.CounterVec
	refused                *prometheus.CounterVec
	dropped, panics        prometheus.Counter
	seconds                *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tether", Subsystem: "mapper", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	gauges := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts(opts(name, help)), []string{"protocol"})
	}
	m := &metrics{
		registered: prometheus.NewGauge(prometheus.GaugeOpts(opts("registered", "Mappers that registered, connected or not."))),
		connected:  gauges("connected", "1 while the mapper of the protocol is connected and answers."),
		devices:    gauges("devices", "Devices that the mapper was told of."),
		calls:      counters("calls_total", "Calls to mappers, by their outcome.", "method", "code"),
		served:     counters("served_total", "Calls by mappers, by their outcome.", "method", "code"),
		retries:    counters("retries_total", "Times that a mapper could not be told of a device and is told again.", "protocol"),
		refused:    counters("refused_connections_total", "Connections by mappers that were closed, by reason.", "reason"),
		dropped:    counter("dropped_twins_total", "Reported properties that their device does not have."),
		panics:     counter("panics_total", "Calls by mappers that ended in a fault of the edge's own."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "tether", Subsystem: "mapper", Name: "call_seconds",
			Help: "How long calls to mappers took.", Buckets: []float64{.001, .01, .1, 1, 5}}, []string{"protocol"}),
	}
	if reg != nil {
		reg.MustRegister(m.registered, m.connected, m.devices, m.calls, m.served, m.refused, m.retries, m.dropped, m.panics, m.seconds)
	}
	return m
}

func (m *metrics) called(protocol, method string, took time.Duration, err error) {
	m.calls.WithLabelValues(method, status.Code(err).String()).Inc()
	m.seconds.WithLabelValues(protocol).Observe(took.Seconds())
}

// forget removes the series of a protocol whose mapper gave way.
func (m *metrics) forget(protocol string) {
	m.connected.DeleteLabelValues(protocol)
	m.devices.DeleteLabelValues(protocol)
	m.retries.DeleteLabelValues(protocol)
	m.seconds.DeleteLabelValues(protocol)
}
