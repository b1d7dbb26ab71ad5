package tunnel

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/transport"
)

// DiscoveryPath is where a scraper asks which kubelets there are.
const DiscoveryPath = "/discovery/kubelets"

// Labels of a target. Those that begin with two underscores are gone after Prometheus' relabeling.
const (
	labelNode     = "__meta_tether_node"
	labelAddress  = "__meta_tether_address" // what the kubelet reported
	labelInstance = "instance"
)

// target is one node, as https://prometheus.io/docs/prometheus/latest/http_sd/ wants it.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

const (
	// maxDiscoveries bounds the connections to the discovery port.
	maxDiscoveries = 64
	// discoveryTimeout bounds one of them, from its TLS handshake to the end of the answer.
	discoveryTimeout = 30 * time.Second
)

// ServeDiscovery serves on l, until ctx is done, the list of kubelets to who may list nodes, and health, which ready tells,
// to everybody. It closes l.
func (s *Server) ServeDiscovery(ctx context.Context, l net.Listener, ready func() error) error {
	mux := http.NewServeMux()
	run.Health(mux, ready)
	mux.HandleFunc("GET "+DiscoveryPath, s.discover)
	srv := &http.Server{
		Handler: mux, TLSConfig: s.tls(),
		ReadTimeout: handshakeTimeout, WriteTimeout: discoveryTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug),
	}
	srv.SetKeepAlivesEnabled(false) // a connection has its place until it is closed
	if err := transport.ServeHTTPS(ctx, srv, l, maxDiscoveries, discoveryTimeout); err != nil {
		return fmt.Errorf("serve discovery on %s: %w", l.Addr(), err)
	}
	return nil
}

// discover answers with the targets, to who may list nodes: it is what their Nodes show.
func (s *Server) discover(w http.ResponseWriter, r *http.Request) {
	caller, ok, err := s.deps.Callers.Authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		if err != nil {
			s.deps.Log.Info("a scraper could not be authenticated", "remote", r.RemoteAddr, "error", err)
		}
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	allowed, err := s.allowed(r.Context(), []authorizer.Attributes{authorizer.AttributesRecord{User: caller.User, Verb: "list",
		APIVersion: "v1", Resource: "nodes", ResourceRequest: true, Path: r.URL.Path}})
	if err != nil {
		s.deps.Log.Warn("cannot learn what a scraper may do", "user", caller.User.GetName(), "error", err)
		http.Error(w, "Internal Error: the rights of the caller could not be looked up", http.StatusInternalServerError)
		return
	}
	if !allowed {
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=list, resource=nodes)", caller.User.GetName()), http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(s.targets()); err != nil {
		s.deps.Log.Debug("a scraper did not read its answer", "remote", r.RemoteAddr, "error", err)
	}
}

// targets are the nodes whose Nodes show an endpoint of a CloudCore, by name: each replica reads the same.
func (s *Server) targets() []target {
	all := []target{} // never null, which is no list
	for _, k := range s.deps.Cache.Keys(object.Nodes) {
		n := s.node(k.Name)
		if n == nil || n.Annotations[AnnotationAddresses] == "" {
			continue // no edge's, or it still shows an address that nobody in the cloud reaches
		}
		port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
		if port == 0 || len(n.Status.Addresses) == 0 {
			continue
		}
		t := target{Targets: []string{net.JoinHostPort(n.Status.Addresses[0].Address, strconv.Itoa(port))},
			Labels: map[string]string{labelNode: n.Name, labelInstance: n.Name}}
		var own reported
		if err := json.Unmarshal([]byte(n.Annotations[AnnotationAddresses]), &own); err == nil {
			if i := slices.IndexFunc(own.Addresses, func(a corev1.NodeAddress) bool { return a.Type == corev1.NodeInternalIP }); i >= 0 {
				t.Labels[labelAddress] = own.Addresses[i].Address
			}
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b target) int { return cmp.Compare(a.Labels[labelNode], b.Labels[labelNode]) })
	return all
}
