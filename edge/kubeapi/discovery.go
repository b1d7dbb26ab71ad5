package kubeapi

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// shortNames are kubectl's abbreviations, those of the API server.
var shortNames = map[object.ID][]string{
	object.Pods: {"po"}, object.Nodes: {"no"}, object.ConfigMaps: {"cm"}, object.Services: {"svc"}, object.Events: {"ev"},
	object.ServiceAccounts: {"sa"}, object.PersistentVolumes: {"pv"}, object.PersistentVolumeClaims: {"pvc"},
	object.Devices: {"dev"}, object.DeviceModels: {"dmodel"}, object.DeviceStatuses: {"devst"},
}

// inAll are the kinds that `kubectl get all` means, of those that the API server counts among them.
var inAll = map[object.ID]bool{object.Pods: true, object.Services: true}

// discoveryPaths returns the handlers of the URLs that describe the API and what there is more of it, by path.
func (s *Server) discoveryPaths(more map[schema.GroupVersion][]metav1.APIResource) map[string]http.Handler {
	paths := map[string]http.Handler{
		"/api":     discovery.NewLegacyRootAPIHandler(discovery.DefaultAddresses{}, s.codecs.CodecFactory, "/api"),
		"/version": http.HandlerFunc(s.serveVersion),
	}
	root := discovery.NewRootAPIsHandler(discovery.DefaultAddresses{}, s.codecs.CodecFactory)
	paths["/apis"] = root
	byGroup := map[schema.GroupVersion][]metav1.APIResource{}
	for gv, list := range more {
		byGroup[gv] = slices.Clone(list)
	}
	for _, e := range s.routes {
		gv := e.kind.GroupVersion()
		byGroup[gv] = append(byGroup[gv], e.discovery())
	}
	for _, gv := range sortedGroups(byGroup) {
		list := byGroup[gv]
		slices.SortFunc(list, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
		h := discovery.NewAPIVersionHandler(s.codecs.CodecFactory, gv,
			discovery.APIResourceListerFunc(func() []metav1.APIResource { return list }))
		if gv.Group == "" {
			paths["/api/"+gv.Version] = h
			continue
		}
		paths["/apis/"+gv.String()] = h
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		group := metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
		root.AddGroup(group)
		paths["/apis/"+gv.Group] = discovery.NewAPIGroupHandler(s.codecs.CodecFactory, group)
	}
	return paths
}

func sortedGroups(m map[schema.GroupVersion][]metav1.APIResource) []schema.GroupVersion {
	var out []schema.GroupVersion
	for gv := range m {
		out = append(out, gv)
	}
	slices.SortFunc(out, func(a, b schema.GroupVersion) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version))
	})
	return out
}

// discovery describes the endpoint to clients.
func (e *endpoint) discovery() metav1.APIResource {
	out := metav1.APIResource{
		Name: e.kind.Resource, Namespaced: e.kind.Namespaced, Kind: e.kind.Kind, Verbs: e.verbs,
		SingularName: strings.ToLower(e.kind.Kind), ShortNames: shortNames[e.kind.ID()],
	}
	if inAll[e.kind.ID()] {
		out.Categories = []string{"all"}
	}
	if e.sub != "" {
		out.Name += "/" + e.sub
		out.SingularName, out.ShortNames, out.Categories = "", nil, nil
	}
	if p, ok := e.storage.(rest.GroupVersionKindProvider); ok {
		gvk := p.GroupVersionKind(e.kind.GroupVersion())
		out.Group, out.Version, out.Kind = gvk.Group, gvk.Version, gvk.Kind
	}
	return out
}

func (s *Server) serveVersion(w http.ResponseWriter, _ *http.Request) {
	v := strings.SplitN(strings.TrimPrefix(s.cfg.Version, "v"), ".", 3)
	info := version.Info{GitVersion: s.cfg.Version, Platform: "tether/edge"}
	if len(v) == 3 {
		info.Major, info.Minor = v[0], v[1]
	}
	responsewriters.WriteRawJSON(http.StatusOK, info, w)
}
