package steward

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	kept                  *prometheus.GaugeVec
	made, retired, fenced prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tether", Subsystem: "steward", Name: name, Help: help})
	}
	m := &metrics{
		kept: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "steward", Name: "pods",
			Help: "Pods that the site keeps without the cluster (held, stand_in), and those that are ended because it is cut off (fenced)."}, []string{"state"}),
		made:    counter("stand_ins_total", "Stand-ins that were made."),
		retired: counter("retired_total", "Held pods and stand-ins that were ended."),
		fenced:  counter("fenced_total", "Pods that were ended because the cloud was not heard for too long."),
	}
	m.show(Summary{})
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.kept), reg.Register(m.made), reg.Register(m.retired), reg.Register(m.fenced))
}

func (m *metrics) show(s Summary) {
	for state, pods := range map[string][]string{"held": s.Held, "stand_in": s.StandIns, "fenced": s.Fenced} {
		m.kept.WithLabelValues(state).Set(float64(len(pods)))
	}
}
