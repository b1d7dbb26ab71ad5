package kubeapi

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/tether-edge/tether/common/object"
)

// A forwardKey names requests that the edge does not understand itself.
type forwardKey struct{ group, resource, sub, verb string }

// forwards are the requests that only the cloud can answer, with what each is for. They pass as they are
// while there is a link, and are a 503 with this reason while there is none. CloudCore makes those of claims, and the
// evictions of who drains the node at its site; the rest, which a kubelet that is set up by edge/kubelet does not need,
// it answers with 403.
var forwards = map[forwardKey]string{
	{"", "persistentvolumes", "", "patch"}:                              "a volume's size is recorded in the cloud",
	{"", "persistentvolumes", "", "update"}:                             "a volume's size is recorded in the cloud",
	{"", "pods", "eviction", "create"}:                                  "evictions are decided in the cloud",
	{"", "persistentvolumeclaims", "status", "patch"}:                   "a claim's size is recorded in the cloud",
	{"", "persistentvolumeclaims", "status", "update"}:                  "a claim's size is recorded in the cloud",
	{"certificates.k8s.io", "certificatesigningrequests", "", "create"}: "certificates are signed in the cloud",
	{"authentication.k8s.io", "tokenreviews", "", "create"}:             "tokens are checked in the cloud",
	{"authorization.k8s.io", "subjectaccessreviews", "", "create"}:      "access is decided in the cloud",
	{"resource.k8s.io", "resourceslices", "", "deletecollection"}:       "resource slices are kept in the cloud",
	{"certificates.k8s.io", "certificatesigningrequests", "", "get"}:    "certificates are signed in the cloud",
	{"authorization.k8s.io", "selfsubjectaccessreviews", "", "create"}:  "access is decided in the cloud",
	{"storage.k8s.io", "volumeattachments", "status", "patch"}:          "attachments are recorded in the cloud",
}

// forward passes a request to the cloud as it came, and the answer back as it comes.
func (s *Server) forward(w http.ResponseWriter, req *http.Request, info *request.RequestInfo, purpose string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		s.fail(w, req, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("cannot read the body (limit %d bytes): %v", maxBody, err)))
		return
	}
	id := object.ID(info.Resource)
	if info.APIGroup != "" {
		id += object.ID("." + info.APIGroup)
	}
	reply, err := s.call(req.Context(), object.Call{
		Verb: info.Verb, Key: object.Key{Kind: id, Namespace: info.Namespace, Name: info.Name},
		Subresource: info.Subresource, ContentType: req.Header.Get("Content-Type"), Body: body, Query: passedOn(req.URL.Query()),
	})
	if err != nil {
		s.fail(w, req, unavailable("%s: %v", purpose, err))
		return
	}
	w.Header().Set("Content-Type", reply.ContentType)
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body) // the client is gone, or it has the answer
}

// passedOn keeps the parameters of a write that matter to the API server.
func passedOn(q url.Values) string {
	out := url.Values{}
	for _, k := range []string{"fieldManager", "fieldValidation", "dryRun", "fieldSelector", "labelSelector"} {
		if v, ok := q[k]; ok {
			out[k] = v
		}
	}
	return out.Encode()
}
