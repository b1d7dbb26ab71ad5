package drill

import "github.com/prometheus/client_golang/prometheus"

// The results of a drill, as tether_edge_drills_total counts them.
const (
	resultRefused   = "refused"
	resultCalledOff = "called-off"
	resultWell      = "well"
	resultBroke     = "broke"
)

func newMetrics(r prometheus.Registerer, gate *Gate) *prometheus.CounterVec {
	drills := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tether_edge_drills_total", Help: "Drills that were ordered, by what came of them."}, []string{"result"})
	r.MustRegister(drills, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tether_edge_drill_cut", Help: "1 while a drill keeps this node from the cloud."}, func() float64 {
		if _, why := gate.State(); why != nil {
			return 1
		}
		return 0
	}))
	return drills
}
