package device

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	updates, conflicts, failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer, count func() int) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tether", Subsystem: "edge_device", Name: name, Help: help})
	}
	m := &metrics{
		updates:   counter("updates_total", "Updates of twins by mappers and clients that were taken or refused for their size."),
		conflicts: counter("conflicts_total", "Desired values set at the edge that the cloud's took the place of."),
		failures:  counter("failures_total", "Times that something known of a device could not be read or kept."),
	}
	r.MustRegister(m.updates, m.conflicts, m.failures, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "edge_device", Name: "devices",
		Help: "Devices of this node."}, func() float64 { return float64(count()) }))
	return m
}
