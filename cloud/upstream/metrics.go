package upstream

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	writes         *prometheus.CounterVec
	seconds        *prometheus.HistogramVec
	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec
	calls          *prometheus.CounterVec
	conflicts      *prometheus.CounterVec
	unchanged      prometheus.Counter
	forbidden      *prometheus.CounterVec
	faults         prometheus.Counter
	dropped        *prometheus.CounterVec
	malformed      prometheus.Counter
	panics         prometheus.Counter
	mode           *prometheus.GaugeVec
	waiting        *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tether_upstream_" + name, Help: help}, labels)
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "tether_upstream_" + name, Help: help})
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tether_upstream_" + name, Help: help,
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 30, 60, 120}}, labels)
	}
	m := &metrics{
		writes:         counter("writes_total", "Writes of edges, by operation, code of the answer (none: no answer) and whether it was final.", "op", "code", "final"),
		seconds:        histogram("write_seconds", "Time from a write's arrival to its result.", "op"),
		requests:       counter("requests_total", "Requests made to the API server in nodes' names.", "verb", "kind", "code"),
		requestSeconds: histogram("request_seconds", "Time of one request, from its start to the end of the answer.", "verb"),
		calls:          counter("calls_total", "Calls of edges that wait for the API server's answer.", "verb", "kind", "code"),
		conflicts:      counter("conflicts_total", "Writes computed again because the object had changed.", "kind"),
		unchanged:      one("unchanged_total", "Overlays that changed nothing and cost no request."),
		forbidden:      counter("forbidden_total", "Writes refused to the node (403).", "op", "kind"),
		faults:         one("impersonation_faults_total", "Requests refused because CloudCore may not act as a node. Any increase is a fault of CloudCore's rights."),
		dropped:        counter("dropped_total", "Events dropped: of a foreign source, or refused for too long.", "reason"),
		malformed:      one("malformed_total", "Writes dropped because they cannot be read."),
		panics:         one("panics_total", "Writes on which cloudcore failed. Any increase is a defect."),
		mode:           prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tether_upstream_impersonation", Help: "1 for the way in which nodes are impersonated."}, []string{"mode"}),
		waiting:        prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tether_upstream_waiting", Help: "What edges ask of the API server that waits for its turn, by what it is."}, []string{"of"}),
	}
	r.MustRegister(m.writes, m.seconds, m.requests, m.requestSeconds, m.calls, m.conflicts, m.unchanged, m.forbidden,
		m.faults, m.dropped, m.malformed, m.panics, m.mode, m.waiting)
	return m
}
