package node

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	renewals, leaseConflicts, lost, stale, copies, recreated, labels, tolerations, podConflicts prometheus.Counter
	leaseSeconds                                                                                prometheus.Histogram
	failures                                                                                    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, k *Keeper) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tether_node_" + name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := &metrics{
		renewals:       counter("lease_renewals_total", "Leases renewed, one API-server write each."),
		leaseConflicts: counter("lease_conflicts_total", "Lease writes that met a change by somebody else."),
		lost:           counter("sessions_lost_total", "Sessions closed because another CloudCore holds the node."),
		stale:          counter("kubelet_stale_total", "Times that a connected node's kubelet stopped renewing."),
		copies:         counter("copies_total", "Copies of Nodes written into their Leases."),
		recreated:      counter("recreated_total", "Nodes created again after they vanished."),
		labels:         counter("labels_total", "Nodes that were given their role labels, or were told what carries their link."),
		tolerations:    counter("tolerations_total", "Pods whose tolerations were changed so that a cut does not evict them."),
		podConflicts:   counter("toleration_conflicts_total", "Changes of tolerations that met a change by somebody else, and were tried again."),
		leaseSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "tether_node_lease_write_seconds", Help: "Time of one Lease write.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15}}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tether_node_failures_total", Help: "Failed steps, by what they were about; all are tried again unless the log says otherwise."}, []string{"what"}),
	}
	r.MustRegister(m.leaseSeconds, m.failures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tether_node_pods_queued", Help: "Pods that changed and were not looked at yet."}, func() float64 { return float64(k.pods.Len()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tether_node_sessions", Help: "Nodes whose session is here."}, func() float64 {
			k.mu.Lock()
			defer k.mu.Unlock()
			n := 0
			for _, r := range k.records {
				if r.session != "" {
					n++
				}
			}
			return float64(n)
		}))
	return m
}
