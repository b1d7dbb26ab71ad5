package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

const (
	protobufType = runtime.ContentTypeProtobuf
	jsonType     = runtime.ContentTypeJSON
	nodesGroup   = "system:nodes"
	nodePrefix   = "system:node:"
)

// A request is one call to the API server.
type request struct {
	verb        string // the HTTP method
	kind        object.Kind
	namespace   string
	name        string
	subresource string
	query       url.Values
	contentType string
	accept      string
	body        []byte
	// as is the node in whose name the request is made; empty for CloudCore itself.
	as   string
	mode Impersonation
}

// An answer is what came of a request.
type answer struct {
	// code is the HTTP status; 0 where there was no answer, and err says why.
	code        int
	contentType string
	body        []byte
	retryAfter  time.Duration
	// status is what the API server says about a code of 400 and above; never nil then.
	status *metav1.Status
	err    error
	// final overrides the verdict of the code: set where a conflict is known to be on the uid or an AlreadyExists counts as done.
	final bool
	// version is the resourceVersion of the object after the write, where it is known without a body.
	version uint64
}

func (a answer) ok() bool { return a.code >= 200 && a.code < 300 }

// reason returns the API server's machine-readable reason: "Conflict", "AlreadyExists".
func (a answer) reason() metav1.StatusReason {
	if a.status == nil {
		return ""
	}
	return a.status.Reason
}

// fault makes an answer of our own.
func fault(code int, reason metav1.StatusReason, format string, args ...any) answer {
	return answer{code: code, status: &metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

// A client is the one connection pool for all nodes.
type client struct {
	http    *http.Client
	base    string // scheme, host and path prefix, without a slash at the end
	timeout time.Duration
	m       *metrics
	status  runtime.Serializer
}

func newClient(cfg Config, rc *rest.Config, m *metrics) (*client, error) {
	if rc == nil {
		return nil, errors.New("no API server is configured (RESTConfig is nil)")
	}
	if rc.Impersonate.UserName != "" {
		return nil, fmt.Errorf("the API server's configuration impersonates %q already; expected CloudCore's own identity", rc.Impersonate.UserName)
	}
	rc = rest.CopyConfig(rc)
	rc.Timeout = 0 // each request has its own
	h, err := rest.HTTPClientFor(rc)
	if err != nil {
		return nil, fmt.Errorf("make the API server's HTTP client: %w", err)
	}
	rc.GroupVersion = &schema.GroupVersion{Version: "v1"}
	rc.APIPath = "/"
	base, _, err := rest.DefaultServerUrlFor(rc)
	if err != nil {
		return nil, fmt.Errorf("API server address %q: %w", rc.Host, err)
	}
	scheme := object.NewScheme()
	return &client{
		http: h, base: strings.TrimRight(base.String(), "/"), timeout: cfg.Timeout, m: m, status: protobuf.NewSerializer(scheme, scheme),
	}, nil
}

// do makes one request, without any retry. It blocks until there is an answer, or ctx or the time for one request ends. Whoever makes it for a
// node has a turn in a lane.
func (c *client) do(ctx context.Context, r request) answer {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	start := time.Now()
	a := c.roundTrip(ctx, r)
	c.m.requests.WithLabelValues(verbLabel(r), string(r.kind.ID()), codeLabel(a.code)).Inc()
	c.m.requestSeconds.WithLabelValues(verbLabel(r)).Observe(time.Since(start).Seconds())
	return a
}

func (c *client) roundTrip(ctx context.Context, r request) answer {
	req, err := http.NewRequestWithContext(ctx, r.verb, c.url(r), bytes.NewReader(r.body))
	if err != nil {
		return answer{err: fmt.Errorf("make request: %w", err)}
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	accept := r.accept
	if accept == "" {
		accept = protobufType
	}
	req.Header.Set("Accept", accept)
	if r.as != "" {
		req.Header.Set(authenticationv1.ImpersonateUserHeader, nodePrefix+r.as)
		if r.mode == Legacy {
			req.Header.Set(authenticationv1.ImpersonateGroupHeader, nodesGroup)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{err: fmt.Errorf("%s %s: %w", r.verb, req.URL.Path, err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, wire.MaxBody+1))
	if err != nil {
		return answer{err: fmt.Errorf("read the answer to %s %s: %w", r.verb, req.URL.Path, err)}
	}
	if len(body) > wire.MaxBody {
		return answer{err: fmt.Errorf("the answer to %s %s has more than %d bytes", r.verb, req.URL.Path, wire.MaxBody)}
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	a := answer{code: resp.StatusCode, contentType: media, body: body, retryAfter: retryAfter(resp.Header)}
	if a.code >= 400 {
		a.status = c.readStatus(a)
	}
	return a
}

// url returns the address of a request. Names were checked to be single path segments.
func (c *client) url(r request) string {
	var b strings.Builder
	b.WriteString(c.base)
	if r.kind.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + r.kind.Group + "/")
	}
	b.WriteString(r.kind.Version)
	if r.namespace != "" {
		b.WriteString("/namespaces/" + url.PathEscape(r.namespace))
	}
	for _, part := range []string{r.kind.Resource, r.name, r.subresource} {
		if part != "" {
			b.WriteString("/" + url.PathEscape(part))
		}
	}
	if len(r.query) > 0 {
		b.WriteString("?" + r.query.Encode())
	}
	return b.String()
}

// readStatus reads the body of a refusal. What is no Status (a proxy's page) becomes one.
func (c *client) readStatus(a answer) *metav1.Status {
	s := &metav1.Status{}
	switch a.contentType {
	case protobufType:
		if o, _, err := c.status.Decode(a.body, nil, nil); err == nil {
			if got, ok := o.(*metav1.Status); ok {
				return got
			}
		}
	case jsonType:
		if err := json.Unmarshal(a.body, s); err == nil && s.Status != "" {
			return s
		}
	}
	const most = 512
	return &metav1.Status{Status: metav1.StatusFailure, Code: int32(a.code), Message: string(bytes.ToValidUTF8(a.body[:min(most, len(a.body))], []byte("?")))}
}

// retryAfter reads the header of that name in whole seconds, as kube-apiserver writes it; 0 where there is none.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// verbLabel names a request in metrics: "PATCH status".
func verbLabel(r request) string {
	if r.subresource != "" {
		return r.verb + " " + r.subresource
	}
	return r.verb
}

func codeLabel(code int) string {
	if code == 0 {
		return "none"
	}
	return strconv.Itoa(code)
}
