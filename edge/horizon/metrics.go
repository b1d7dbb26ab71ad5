package horizon

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

// register adds the gauges; they read the last judgement and the time.
func (w *Watcher) register() {
	for _, a := range causes {
		w.deps.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "tether_edge_autonomy_seconds", Help: "Time until the first limit of a cause; 0 if it is reached, +Inf if none is known, NaN before the first look.",
			ConstLabels: prometheus.Labels{"cause": string(a.cause)},
		}, func() float64 {
			j, ok := w.Status()
			if !ok {
				return math.NaN()
			}
			left, ok := j.earliest(a.cause, w.deps.Now())
			if !ok {
				return math.Inf(1)
			}
			return left.Seconds()
		}))
	}
	w.deps.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tether_edge_autonomy_horizon_seconds", Help: "How long the node can go on alone; 0 if something has ended already, +Inf if nothing is known that ends it, NaN before the first look.",
	}, func() float64 {
		j, ok := w.Status()
		switch {
		case !ok:
			return math.NaN()
		case j.Now:
			return 0
		case j.Until.IsZero():
			return math.Inf(1)
		}
		return math.Max(0, j.Until.Sub(w.deps.Now()).Seconds())
	}))
}
