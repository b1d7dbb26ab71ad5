package image

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	pulls                                   *prometheus.CounterVec
	served                                  prometheus.Counter
	running, queued, pinned, names, pinsAll prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tether", Subsystem: "image", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	m := &metrics{
		pulls:   prometheus.NewCounterVec(prometheus.CounterOpts(opts("pulls_total", "Pulls at the runtime, by what the registry said.")), []string{"answer"}),
		served:  prometheus.NewCounter(prometheus.CounterOpts(opts("served_locally_total", "Pulls that were answered with the image that was here, since the registry was not heard."))),
		running: gauge("pulls_running", "Pulls at the runtime now, those included for which nobody waits any more."),
		queued:  gauge("pulls_queued", "Pulls that wait for a place."),
		pinned:  gauge("pinned", "Images that the kubelet's garbage collection was last told to leave."),
		pinsAll: gauge("pinned_unknown", "1 if it was not known at the last list which images the pods need, so that all were pinned."),
		names:   gauge("proofs", "Image names of which it is known whom the registry gave them."),
	}
	if reg != nil {
		reg.MustRegister(m.pulls, m.served, m.running, m.queued, m.pinned, m.pinsAll, m.names)
	}
	return m
}
