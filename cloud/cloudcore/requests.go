package cloudcore

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
)

// requests counts what CloudCore asks of the API server, in whoever's name: all of it, whichever part asks.
type requests struct {
	total *prometheus.CounterVec
	names *request.RequestInfoFactory
}

// countRequests counts the requests of every client that is made from cfg or from a copy of it.
func countRequests(cfg *rest.Config, reg prometheus.Registerer) {
	r := &requests{names: &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tether", Subsystem: "api", Name: "requests_total",
			Help: "Requests to the API server by verb, resource (none for what is no object) and code of the answer (none: there was no answer)."},
			[]string{"verb", "resource", "code"})}
	reg.MustRegister(r.total)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return counted{r, next} })
}

// counted is a transport whose requests are counted.
type counted struct {
	*requests
	next http.RoundTripper
}

func (c counted) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(req)
	code := "none"
	if err == nil {
		code = strconv.Itoa(response.StatusCode)
	}
	verb, resource := c.describe(req)
	c.total.WithLabelValues(verb, resource, code).Inc()
	return response, err
}

// describe says what a request is, as the API server's own metrics do.
func (r *requests) describe(req *http.Request) (verb, resource string) {
	info, err := r.names.NewRequestInfo(req)
	if err != nil || !info.IsResourceRequest {
		return "get", "none"
	}
	resource = info.Resource
	if info.APIGroup != "" {
		resource += "." + info.APIGroup
	}
	if info.Subresource != "" {
		resource += "/" + info.Subresource
	}
	return info.Verb, resource
}
