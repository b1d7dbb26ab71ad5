package device

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reports    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	seconds    prometheus.Histogram
	writes     *prometheus.CounterVec
	conflicts  prometheus.Counter
	unchanged  prometheus.Counter
	superseded prometheus.Counter
	restored   *prometheus.CounterVec
	failures   prometheus.Counter
	panics     prometheus.Counter
}

// newMetrics registers them. count says how many devices are known by the status of Ready, and how many reports wait.
func newMetrics(r prometheus.Registerer, waiting func() float64, ready func(status string) float64) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "tether", Subsystem: "device", Name: name, Help: help}
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	m := &metrics{
		reports: vec("reports_total", "Reports of edges, by code of the answer and whether it was final.", "code", "final"),
		refused: vec("reports_refused_total", "Reports refused for good, by reason.", "reason"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "tether", Subsystem: "device", Name: "report_seconds",
			Help: "Time from a report's arrival to its answer, waiting for its turn included.", Buckets: []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30}}),
		writes:     vec("writes_total", "Writes of DeviceStatuses, by verb and code of the answer (none: no answer).", "verb", "code"),
		conflicts:  one("conflicts_total", "Writes computed again because the DeviceStatus had changed."),
		unchanged:  one("reports_unchanged_total", "Reports that changed nothing: they cost a read and no write."),
		superseded: one("reports_superseded_total", "Reports whose place a newer one of the same device took while they waited."),
		restored:   vec("statuses_restored_total", "DeviceStatuses put right with what the node reported last, by what somebody had done to them (deleted, changed).", "what"),
		failures:   one("failures_total", "Tries to bring a DeviceStatus in order that failed and are repeated."),
		panics:     one("panics_total", "Devices on which cloudcore failed. Any increase is a defect."),
	}
	r.MustRegister(m.reports, m.refused, m.seconds, m.writes, m.conflicts, m.unchanged, m.superseded, m.restored, m.failures, m.panics,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("reports_waiting", "Reports that wait for their turn.")), waiting))
	for _, status := range []string{"True", "False", "Unknown"} {
		o := opts("devices", "Devices, by the status of their Ready condition.")
		o.ConstLabels = prometheus.Labels{"ready": status}
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts(o), func() float64 { return ready(status) }))
	}
	return m
}

func codeLabel(code int32) string {
	if code == 0 {
		return "none"
	}
	return strconv.Itoa(int(code))
}
