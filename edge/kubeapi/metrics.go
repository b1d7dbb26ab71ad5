package kubeapi

import (
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// metrics counts requests. Watches, and what is relayed to the kubelet, are counted when they end and are left out of the
// durations: they last as long as somebody looks.
type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	panics    prometheus.Counter
	refreshed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, waiting func() int) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tether_edge_api_requests_total", Help: "Requests to the local Kubernetes API.",
		}, []string{"verb", "resource", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tether_edge_api_request_duration_seconds", Help: "Time to answer a request that is no watch and is not relayed to the kubelet.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"verb"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tether_edge_api_panics_total", Help: "Requests that ended in a panic. Each is a defect.",
		}),
		refreshed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tether_edge_api_refreshed_tokens_total", Help: "Cached tokens of service accounts that were asked for anew when the link came up.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	withheld := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tether_edge_api_pods_waiting_for_devices", Help: "Pods that the kubelet is not shown yet, because no device plugin offers what they ask for.",
	}, func() float64 { return float64(waiting()) })
	for _, c := range []prometheus.Collector{m.requests, m.durations, m.panics, m.refreshed, withheld} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) observe(info *request.RequestInfo, code int, took time.Duration) {
	verb, resource, lasts := "other", "", false
	if info != nil && info.IsResourceRequest {
		verb, resource = info.Verb, info.Resource
		if info.Subresource != "" {
			resource += "/" + info.Subresource
		}
		_, lasts = relays[written{info.APIGroup, info.Resource, info.Subresource, ""}]
	}
	if code == 403 || code == 404 || code == 405 || code == 0 {
		// The names come from the request: a client that makes them up must not fill the memory.
		verb, resource = "other", ""
	}
	m.requests.WithLabelValues(verb, resource, strconv.Itoa(code)).Inc()
	if verb != "watch" && !lasts {
		m.durations.WithLabelValues(verb).Observe(took.Seconds())
	}
}
