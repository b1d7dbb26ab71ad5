package kubeapi

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// A relay turns a request for a subresource into one to the kubelet, as the API server does
// (k8s.io/kubernetes/pkg/registry/core/pod/strategy.go).
type relay struct {
	verbs []string // nil is all
	// upgraded connections carry streams; without an upgrade there is nothing to relay.
	upgraded bool
	// text: what the kubelet says of a failure is plain text, and clients want a Status.
	text bool
	// target returns the kubelet's path and query. pod is nil for a node.
	target func(req *http.Request, info *request.RequestInfo, pod *corev1.Pod) (*url.URL, error)
}

// relays are the subresources that the kubelet serves, by resource; the verb is empty.
var relays = map[written]relay{
	{"", "pods", "log", ""}:         {verbs: []string{"get"}, text: true, target: logTarget},
	{"", "pods", "exec", ""}:        {verbs: []string{"get", "create"}, upgraded: true, target: streamTarget},
	{"", "pods", "attach", ""}:      {verbs: []string{"get", "create"}, upgraded: true, target: streamTarget},
	{"", "pods", "portforward", ""}: {verbs: []string{"get", "create"}, upgraded: true, target: forwardTarget},
	{"", "nodes", "proxy", ""}:      {target: proxyTarget},
}

// relay passes a request to the kubelet, and its answer or connection back.
func (s *Server) relay(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, r relay) {
	if r.verbs != nil && !slices.Contains(r.verbs, info.Verb) || info.Name == "" {
		s.fail(w, req, methodNotAllowed())
		return
	}
	target, err := s.targetOf(req, info, r)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	if r.upgraded && !httpstream.IsUpgradeRequest(req) {
		s.fail(w, req, badRequest("Upgrade request required"))
		return
	}
	target.Scheme, target.Host = "https", "kubelet"
	// What has no length, as a log, is passed on as it comes.
	proxy := &httputil.ReverseProxy{
		Transport: s.deps.Kubelet,
		ErrorLog:  slog.NewLogLogger(s.deps.Log.Handler(), slog.LevelDebug),
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = target, ""
			// The kubelet knows this process only.
			for name := range p.Out.Header {
				if name == "Authorization" || strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Impersonate-") {
					p.Out.Header.Del(name)
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			var status apierrors.APIStatus
			if !errors.As(err, &status) {
				err = unavailable("the kubelet of this node does not answer: %v", err)
			}
			s.fail(w, req, err)
		},
	}
	if r.text {
		proxy.ModifyResponse = func(resp *http.Response) error { return failureOf(resp, info) }
	}
	proxy.ServeHTTP(w, req)
}

// targetOf looks the object up, so that what is not there is told as the API tells it.
func (s *Server) targetOf(req *http.Request, info *request.RequestInfo, r relay) (*url.URL, error) {
	if info.Resource == "nodes" {
		if info.Name != s.cfg.NodeName {
			return nil, notFound(s.nodeReader.groupResource(), info.Name)
		}
		return r.target(req, info, nil)
	}
	ctx := request.WithNamespace(req.Context(), info.Namespace)
	o, err := s.podReader.Get(ctx, info.Name, nil)
	if err != nil {
		return nil, err
	}
	return r.target(req, info, o.(*corev1.Pod))
}

// maxFailure bounds what is read of the kubelet's words, in bytes; the API server's own limit.
const maxFailure = 50_000

// failureOf turns the kubelet's words into the error that the API server makes of them.
func failureOf(resp *http.Response, info *request.RequestInfo) error {
	if resp.StatusCode >= http.StatusOK && resp.StatusCode <= http.StatusPartialContent {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxFailure))
	if err != nil {
		return err
	}
	switch text := string(b); resp.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return badRequest("%s", text)
	default:
		return apierrors.NewGenericServerResponse(resp.StatusCode, "", schema.GroupResource{Resource: info.Resource + "/" + info.Subresource}, info.Name, text, 0, false)
	}
}

// logTarget passes on the options that the kubelet knows by the same names.
func logTarget(req *http.Request, _ *request.RequestInfo, pod *corev1.Pod) (*url.URL, error) {
	q, out := req.URL.Query(), url.Values{}
	container, err := containerOf(q.Get("container"), pod)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"} {
		if v, ok := q[name]; ok {
			out[name] = v
		}
	}
	return &url.URL{Path: fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container), RawQuery: out.Encode()}, nil
}

// streamTarget is of exec and attach.
func streamTarget(req *http.Request, info *request.RequestInfo, pod *corev1.Pod) (*url.URL, error) {
	q, out := req.URL.Query(), url.Values{}
	container, err := containerOf(q.Get("container"), pod)
	if err != nil {
		return nil, err
	}
	for option, param := range map[string]string{
		"stdin": corev1.ExecStdinParam, "stdout": corev1.ExecStdoutParam, "stderr": corev1.ExecStderrParam, "tty": corev1.ExecTTYParam,
	} {
		var wanted bool
		values := q[option]
		if err := runtime.Convert_Slice_string_To_bool(&values, &wanted, nil); err != nil {
			return nil, badRequest("%s: %v", option, err)
		}
		if wanted {
			out.Set(param, "1")
		}
	}
	if info.Subresource == "exec" {
		out["command"] = q["command"]
	}
	return &url.URL{Path: fmt.Sprintf("/%s/%s/%s/%s", info.Subresource, pod.Namespace, pod.Name, container), RawQuery: out.Encode()}, nil
}

func forwardTarget(req *http.Request, _ *request.RequestInfo, pod *corev1.Pod) (*url.URL, error) {
	out := url.Values{}
	if ports := req.URL.Query()["ports"]; len(ports) > 0 {
		out.Set(corev1.PortHeader, strings.Join(ports, ","))
	}
	return &url.URL{Path: fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), RawQuery: out.Encode()}, nil
}

// proxyTarget is what follows proxy in the path, as it came.
func proxyTarget(req *http.Request, info *request.RequestInfo, _ *corev1.Pod) (*url.URL, error) {
	prefix := "/api/v1/nodes/" + info.Name + "/proxy"
	rest := func(path string) string {
		if rest := strings.TrimPrefix(path, prefix); rest != "" || path == "" {
			return rest
		}
		return "/"
	}
	return &url.URL{Path: rest(req.URL.Path), RawPath: rest(req.URL.RawPath), RawQuery: req.URL.RawQuery}, nil
}

// containerOf returns the container that is meant, in the API server's words where none is.
func containerOf(name string, pod *corev1.Pod) (string, error) {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	switch {
	case name != "" && slices.Contains(names, name):
		return name, nil
	case name != "":
		return "", badRequest("container %s is not valid for pod %s", name, pod.Name)
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case len(pod.Spec.Containers) == 0:
		return "", badRequest("a container name must be specified for pod %s", pod.Name)
	}
	return "", badRequest("a container name must be specified for pod %s, choose one of: %s", pod.Name, names)
}
