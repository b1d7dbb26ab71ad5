package tunnel

import (
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/tether-edge/tether/common/object"
)

// FuzzAddresses: whatever is in the annotation, the edge is shown a Node.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{"", "{", "[]", `{"addresses":[{"type":"InternalIP","address":"10.0.0.7"}],"port":10350}`, `{"addresses":null,"port":1e99}`, `{"addresses":[{}],"port":-1}`} {
		f.Add(s)
	}
	kind, _ := object.Lookup(object.Nodes)
	f.Fuzz(func(t *testing.T, annotation string) {
		n := &corev1.Node{}
		n.Name, n.UID, n.ResourceVersion = "a", "u", "5"
		n.Annotations = map[string]string{AnnotationAddresses: annotation}
		n.Status.Addresses = endpoint("192.0.2.1")
		body, err := object.Encode(kind, n)
		if err != nil {
			return // no string of an API object
		}
		item, ok := View{View: one{item: object.Item{Body: body}}, Log: slog.New(slog.DiscardHandler)}.Get(object.Key{Kind: object.Nodes, Name: "a"})
		if !ok {
			t.Fatal("the node's own Node is gone")
		}
		if o, err := object.Decode(kind, item.Body); err != nil || o.GetName() != "a" {
			t.Fatalf("the edge is shown %v: %v", o, err)
		}
	})
}

// FuzzRights: a path that is served is one that means the same to whoever cleans it, and its right is that of its first
// element.
func FuzzRights(f *testing.F) {
	for _, s := range []string{"/", "/pods", "/metrics/../exec", "/metrics/..%2fexec", "//exec", "/./exec", "/exec/a/b/c?command=x", "/metrics/%2E%2E/exec", "*", "/logs/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http refuses it
		}
		r := &http.Request{Method: http.MethodGet, URL: u}
		if !plain(r) {
			return
		}
		if again := path.Clean(u.Path); again != u.Path && again+"/" != u.Path {
			t.Fatalf("%q is served, and is %q to others", u.Path, again)
		}
		for _, a := range attributes("n", &user.DefaultInfo{}, r) {
			if s := a.GetSubresource(); s != "proxy" && s != "pods" && !strings.HasPrefix(strings.TrimPrefix(u.Path, "/"), map[string]string{"log": "logs"}[s]) {
				t.Fatalf("%q needs the right %q", u.Path, s)
			}
		}
	})
}
