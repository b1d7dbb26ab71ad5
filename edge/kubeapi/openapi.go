package kubeapi

import (
	"encoding/json"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Before kubectl applies anything it looks for the fieldValidation parameter in the API's description, and without one it
// ends there, at a page that is not found. What it is to hear is why its write is refused, so there is a description: of
// the patches and their parameters, and for kubectl explain of where a kind is described: all of Kubernetes' own
// descriptions are several megabytes.

// openAPI is as much of an OpenAPI 3 document.
type openAPI struct {
	Version string                 `json:"openapi"`
	Info    map[string]string      `json:"info"`
	Paths   map[string]openAPIPath `json:"paths"`
	// Components are of the one kind schemas, by names that nobody refers to.
	Components map[string]map[string]openAPISchema `json:"components"`
}

type openAPISchema struct {
	Type        string                    `json:"type"`
	Description string                    `json:"description"`
	Kinds       []metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
}

type openAPIPath struct {
	Patch openAPIPatch `json:"patch"`
}

type openAPIPatch struct {
	Parameters []openAPIParameter      `json:"parameters"`
	Kind       metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
}

type openAPIParameter struct {
	Name string `json:"name"`
	In   string `json:"in"`
}

// openAPIPaths returns the handlers of the descriptions, by path.
func (s *Server) openAPIPaths() (map[string]http.Handler, error) {
	const root = "/openapi/v3"
	documents := map[string]openAPI{}
	for _, e := range s.routes {
		gv := e.kind.GroupVersion()
		at := "api/" + gv.Version
		if gv.Group != "" {
			at = "apis/" + gv.String()
		}
		d, ok := documents[at]
		if !ok {
			d = openAPI{Version: "3.0.0", Info: map[string]string{"title": "Tether", "version": s.cfg.Version}, Paths: map[string]openAPIPath{},
				Components: map[string]map[string]openAPISchema{"schemas": {}}}
			documents[at] = d
		}
		if e.sub == "" {
			d.Components["schemas"][e.kind.Kind] = openAPISchema{
				Type: "object", Kinds: []metav1.GroupVersionKind{metav1.GroupVersionKind(e.kind.GroupVersionKind)},
				Description: "A gateway holds objects and not the description of their fields: ask the cluster, by the same command.",
			}
			d.Paths["/"+at+"/"+e.kind.Resource+"/{name}"] = openAPIPath{openAPIPatch{
				Parameters: []openAPIParameter{{"dryRun", "query"}, {"fieldManager", "query"}, {"fieldValidation", "query"}},
				Kind:       metav1.GroupVersionKind(e.kind.GroupVersionKind),
			}}
		}
	}
	type link struct {
		URL string `json:"serverRelativeURL"`
	}
	var index struct {
		Paths map[string]link `json:"paths"`
	}
	index.Paths = map[string]link{}
	out := map[string]http.Handler{}
	for at, d := range documents {
		b, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", at, err)
		}
		index.Paths[at] = link{root + "/" + at}
		out[root+"/"+at] = asJSON(b)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, fmt.Errorf("describe the API: %w", err)
	}
	out[root] = asJSON(b)
	return out, nil
}

func asJSON(b []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b) // the client is gone, or it has the answer
	})
}
