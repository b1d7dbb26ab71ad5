package tunnel

import (
	"net/http"
	"path"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// fine are paths with a right of their own, besides proxy, which is enough for them too.
var fine = map[string]string{"/pods": "pods", "/runningpods": "pods", "/healthz": "healthz", "/configz": "configz"}

// coarse are paths for which proxy is not enough.
var coarse = map[string]string{"/stats": "stats", "/metrics": "metrics", "/logs": "log", "/checkpoint": "checkpoint", "/statusz": "statusz", "/flagz": "configz"}

// attributes are the rights of which a caller needs one, as a kubelet of 1.36 asks for them:
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
func attributes(node string, u user.Info, r *http.Request) []authorizer.Attributes {
	verb := ""
	switch r.Method {
	case http.MethodPost:
		verb = "create"
	case http.MethodGet:
		verb = "get"
	case http.MethodPut:
		verb = "update"
	case http.MethodPatch:
		verb = "patch"
	case http.MethodDelete:
		verb = "delete"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	first = "/" + first
	var subresources []string
	if s, ok := fine[first]; ok {
		subresources = append(subresources, s)
	}
	if s, ok := coarse[first]; ok {
		subresources = append(subresources, s)
	} else {
		subresources = append(subresources, "proxy")
	}
	attrs := make([]authorizer.Attributes, len(subresources))
	for i, s := range subresources {
		attrs[i] = authorizer.AttributesRecord{User: u, Verb: verb, APIVersion: "v1", Resource: "nodes", Subresource: s, Name: node,
			ResourceRequest: true, Path: r.URL.Path}
	}
	return attrs
}

// plain reports whether a path means the same to everybody: what the rights are asked for must be what the kubelet serves.
func plain(r *http.Request) bool {
	p := r.URL.Path
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return strings.HasPrefix(p, "/") && clean == p && (r.URL.RawPath == "" || !strings.Contains(strings.ToLower(r.URL.RawPath), "%2f"))
}
