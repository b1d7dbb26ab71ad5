package methods

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests          *prometheus.CounterVec
	seconds           prometheus.Histogram
	replayed, evicted prometheus.Counter
	refused           *prometheus.CounterVec
	failures, panics  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, running, keys, connections func() int) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tether", Subsystem: "methods", Name: name, Help: help}
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	gauge := func(name, help string, value func() int) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts(name, help)), func() float64 { return float64(value()) })
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(opts("requests_total", "Requests, by what was asked and the code of the answer.")), []string{"what", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tether", Subsystem: "methods", Name: "call_seconds",
			Help: "How long calls took that were read back, from the request to the report.", Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30, 100, 300}}),
		replayed: counter("replayed_total", "Calls that were answered with the outcome of an earlier one with the same key."),
		evicted:  counter("forgotten_keys_total", "Keys that gave way to newer ones before their time was over."),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts(opts("refused_connections_total", "Connections that were closed, by reason.")), []string{"reason"}),
		failures: counter("failures_total", "Times that what is remembered of calls could not be read or kept."),
		panics:   counter("panics_total", "Requests that ended in a fault of the edge's own."),
	}
	reg.MustRegister(m.requests, m.seconds, m.replayed, m.evicted, m.refused, m.failures, m.panics,
		gauge("calls", "Calls that wait for a device to have what they desire.", running),
		gauge("keys", "Keys of calls that are remembered.", keys),
		gauge("connections", "Connections that are open.", connections))
	return m
}
