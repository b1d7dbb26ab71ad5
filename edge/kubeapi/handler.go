package kubeapi

import (
	"errors"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// A hook may serve a request in the API's place, and reports whether it did.
type hook func(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) bool

// newHandler returns the API as one handler. Its requests carry the caller (request.WithUser). before may be nil; more is
// what it serves.
func (s *Server) newHandler(before hook, more map[schema.GroupVersion][]metav1.APIResource) http.Handler {
	paths := s.discoveryPaths(more)
	for _, p := range []string{"/healthz", "/livez", "/readyz"} {
		paths[p] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = w.Write([]byte("ok"))
		})
	}
	infos := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		info, err := infos.NewRequestInfo(req)
		defer func() {
			if p := recover(); p != nil {
				s.crashed(rec, req, p)
			}
			s.metrics.observe(info, rec.code, time.Since(start))
		}()
		if err != nil {
			s.fail(rec, req, badRequest("%v", err))
			return
		}
		ctx := request.WithRequestInfo(req.Context(), info)
		ctx = audit.WithAuditContext(request.WithReceivedTimestamp(ctx, start)) // the patch handler asks it, and gets no level
		req = req.WithContext(ctx)
		if before == nil || !before(rec, req, info) {
			s.route(rec, req, info, paths)
		}
	})
}

// route finds what serves a request, after asking whether the caller may make it.
func (s *Server) route(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, paths map[string]http.Handler) {
	if !info.IsResourceRequest {
		if h, ok := paths[strings.TrimSuffix(req.URL.Path, "/")]; ok && req.Method == http.MethodGet {
			h.ServeHTTP(w, req)
			return
		}
		http.NotFound(w, req)
		return
	}
	e, known := s.routes[routeKey(info.APIGroup, info.APIVersion, info.Resource, info.Subresource)]
	f, forwarded := forwards[forwardKey{info.APIGroup, info.Resource, info.Subresource, info.Verb}]
	if (!known || !e.reachable(info)) && !forwarded {
		s.noSuchResource(w, req, info, paths)
		return
	}
	if !forwarded {
		h, ok := e.serve[info.Verb]
		switch {
		case !e.complete(info):
			s.fail(w, req, methodNotAllowed())
		case writes(info.Verb) && !ok:
			s.refuse(w, req, info, cloudOwns)
		case !ok:
			s.fail(w, req, methodNotAllowed())
		default:
			h(w, req)
		}
		return
	}
	s.forward(w, req, info, f)
}

// noSuchResource answers 404: with a Status in a group that is served, else as a web server would, both as the API
// server does.
func (s *Server) noSuchResource(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, paths map[string]http.Handler) {
	if _, ok := paths["/apis/"+info.APIGroup+"/"+info.APIVersion]; !ok && info.APIGroup != "" {
		http.NotFound(w, req)
		return
	}
	s.fail(w, req, apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false))
}

// reachable says whether the API server would have a route of this shape.
func (e *endpoint) reachable(info *request.RequestInfo) bool {
	longest := 2
	if e.sub != "" {
		longest = 3
	}
	if len(info.Parts) > longest {
		return false
	}
	if !e.kind.Namespaced {
		return info.Namespace == ""
	}
	collection := e.sub == "" && len(info.Parts) == 1
	return info.Namespace != "" || collection
}

// complete says whether the request names an object where its verb needs one, and none where it makes one.
func (e *endpoint) complete(info *request.RequestInfo) bool {
	named := len(info.Parts) > 1
	switch info.Verb {
	case "list":
		return !named
	case "create":
		return named == (e.sub != "") && (info.Namespace != "" || !e.kind.Namespaced)
	case "deletecollection":
		return !named && e.sub == ""
	case "watch", "":
		return true
	}
	return named
}

// writes says whether a verb changes something: such a verb that is not served belongs to the cloud, and is refused
// as an authorizer would.
func writes(verb string) bool {
	switch verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return true
	}
	return false
}

func methodNotAllowed() error {
	return apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
}

// refuse answers 403 in the API server's words.
func (s *Server) refuse(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, reason string) {
	who, _ := request.UserFrom(req.Context())
	responsewriters.Forbidden(authorizer.AttributesRecord{
		User: who, Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name, ResourceRequest: info.IsResourceRequest,
		Path: info.Path,
	}, w, req, reason, s.codecs.CodecFactory)
}

func (s *Server) fail(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, s.codecs.CodecFactory, metav1.Unversioned, w, req)
}

// crashed turns a panic into a 500, or ends the answer where it has begun.
func (s *Server) crashed(w *recorder, req *http.Request, reason any) {
	if reason == http.ErrAbortHandler {
		panic(reason)
	}
	s.metrics.panics.Inc()
	s.deps.Log.Error("a request panicked", "method", req.Method, "path", req.URL.Path, "reason", reason, "stack", string(debug.Stack()))
	if w.code != 0 {
		panic(http.ErrAbortHandler)
	}
	s.fail(w, req, apierrors.NewInternalError(errors.New("the request panicked; the log of edgecore says where")))
}

// recorder remembers the code of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Flush implements http.Flusher, which watches need.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
