package kubeapi

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// cloudOwns is why nobody but the cloud writes most kinds.
const cloudOwns = "the cloud owns it: a change made here would be lost, make it in the cluster"

// elsewhere is why nobody writes here what is not served here.
const elsewhere = "it is not served at a gateway: make it in the cluster; kubectl api-resources tells what is served"

// mayBeAsked is why nobody is told here what they may do.
const mayBeAsked = "reviews are made in the cluster: whoever may ask here may read all; what they write is refused at once with the reason, or decided in the cluster"

// A written is a kind or subresource, and a verb; "" is every verb that writes.
type written struct{ group, resource, sub, verb string }

// losses are the writes that the kubelet may make and a person may not, with what would become of them. What is not here
// reaches the cloud in the node's name, or is refused to the kubelet, too.
var losses = map[written]string{
	{"", "pods", "", "create"}:                "pods are made in the cluster; what has to run here without it is a static pod (kubelet.staticPodPath of edgecore's configuration)",
	{"", "pods", "status", ""}:                "the kubelet reports it: what others write would be lost at its next report",
	{"", "nodes", "status", ""}:               "the kubelet reports it: what others write would be lost at its next report",
	{"", "nodes", "", "create"}:               "the kubelet registers its own node and there are no others here",
	{"storage.k8s.io", "csinodes", "", ""}:    "the kubelet keeps it: what others write would be lost",
	{"coordination.k8s.io", "leases", "", ""}: "leases are kept in memory here, for the kubelet: what others write would be lost",
	// The cloud would answer of the node, and not of who asks.
	{"authorization.k8s.io", "selfsubjectaccessreviews", "", ""}: mayBeAsked,
	{"authorization.k8s.io", "selfsubjectrulesreviews", "", ""}:  mayBeAsked,
}

// forPeople serves what only those who come over loopback ask for, and refuses what would be lost. It reports false for
// what is the API's own.
func (s *Server) forPeople(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) bool {
	if !info.IsResourceRequest {
		h, ok := s.descriptions[req.URL.Path]
		if ok && req.Method == http.MethodGet {
			h.ServeHTTP(w, req)
		}
		return ok && req.Method == http.MethodGet
	}
	if s.deps.Kubelet != nil {
		if info.APIGroup == usageVersion.Group && info.APIVersion == usageVersion.Version {
			s.serveUsage(w, req, info)
			return true
		}
		if relay, ok := relays[written{info.APIGroup, info.Resource, info.Subresource, ""}]; ok && info.APIVersion == "v1" {
			s.relay(w, req, info, relay)
			return true
		}
	}
	if reason := s.lost(info); reason != "" {
		s.refuse(w, req, info, reason)
		return true
	}
	return false
}

// lost says why what a person would write comes to nothing, or "".
func (s *Server) lost(info *request.RequestInfo) string {
	if !writes(info.Verb) {
		return ""
	}
	for _, verb := range []string{info.Verb, ""} {
		if reason, ok := losses[written{info.APIGroup, info.Resource, info.Subresource, verb}]; ok {
			return reason
		}
	}
	known := func(sub string) bool {
		return s.routes[routeKey(info.APIGroup, info.APIVersion, info.Resource, sub)] != nil
	}
	_, forwarded := forwards[forwardKey{info.APIGroup, info.Resource, info.Subresource, info.Verb}]
	if !forwarded && !known("") {
		return elsewhere
	}
	if info.Subresource != "" && !forwarded && known("") && !known(info.Subresource) {
		return cloudOwns // an ephemeral container, a binding
	}
	return ""
}

// peoplesResources are what forPeople serves, for discovery.
func (s *Server) peoplesResources() map[schema.GroupVersion][]metav1.APIResource {
	if s.deps.Kubelet == nil {
		return nil
	}
	core := []metav1.APIResource{
		{Name: "pods/log", Namespaced: true, Kind: "Pod", Verbs: metav1.Verbs{"get"}},
		// Without it kubectl drain would delete, and be refused, where the cloud may evict.
		{Name: "pods/eviction", Namespaced: true, Group: "policy", Version: "v1", Kind: "Eviction", Verbs: metav1.Verbs{"create"}},
		{Name: "nodes/proxy", Kind: "NodeProxyOptions", Verbs: metav1.Verbs{"create", "delete", "get", "patch", "update"}},
	}
	for sub, kind := range map[string]string{"attach": "PodAttachOptions", "exec": "PodExecOptions", "portforward": "PodPortForwardOptions"} {
		core = append(core, metav1.APIResource{Name: "pods/" + sub, Namespaced: true, Kind: kind, Verbs: metav1.Verbs{"create", "get"}})
	}
	return map[schema.GroupVersion][]metav1.APIResource{{Version: "v1"}: core, usageVersion: usageResources}
}
