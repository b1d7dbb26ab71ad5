package tunnel

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec
	open     prometheus.Gauge
	failures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, ports func() int) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tether", Subsystem: "tunnel", Name: name, Help: help}
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts(opts("requests_total", "Requests to kubelets, by what became of them. Of those that were relayed some failed and some were abandoned by the caller.")), []string{"outcome"}),
		open:     prometheus.NewGauge(prometheus.GaugeOpts(opts("requests_open", "Requests to kubelets that are relayed now."))),
		failures: prometheus.NewCounter(prometheus.CounterOpts(opts("port_failures_total", "Times that a node could not be given its port."))),
	}
	reg.MustRegister(m.requests, m.open, m.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("ports", "Nodes whose port is open.")),
		func() float64 { return float64(ports()) }))
	return m
}
