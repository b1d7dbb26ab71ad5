package apitable

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A row is one request that both servers get.
type row struct {
	name        string
	method      string
	path        string
	contentType string // of the body; JSON if empty
	accept      string // JSON if empty
	body        string
	// admin asks the API server as the administrator: the row is about reading, and the node may not read so widely.
	admin bool
	// differs says why the two answers are not compared; edgeCode is then what the edge answers. Each is deliberate.
	differs  string
	edgeCode int
	// message is why the texts of two errors differ though code, reason and details do not.
	message string
}

func send(ctx context.Context, via http.RoundTripper, base string, r row) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, base+r.path, strings.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", orJSON(r.contentType))
	req.Header.Set("Accept", orJSON(r.accept))
	return via.RoundTrip(req)
}

func orJSON(s string) string {
	if s == "" {
		return "application/json"
	}
	return s
}

// answer is what is compared.
type answer struct {
	Code int
	Type string
	Body any
}

func ask(t *testing.T, via http.RoundTripper, base string, r row) answer {
	t.Helper()
	resp, err := send(t.Context(), via, base, r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Code: resp.StatusCode, Type: resp.Header.Get("Content-Type"), Body: string(b)}
	var body any
	if json.Unmarshal(b, &body) == nil {
		a.Body = normal(body, r.message != "")
	} else if strings.Contains(a.Type, "protobuf") {
		a.Body = strings.HasPrefix(string(b), "k8s\x00") // uids and versions differ: its JSON is compared by another row
	}
	return a
}

// aside are the fields, wherever they are, that two servers cannot have in common.
var aside = map[string]bool{
	"uid": true, "resourceVersion": true, "creationTimestamp": true, "deletionTimestamp": true, "managedFields": true,
	"generation": true, "observedGeneration": true, "token": true, "expirationTimestamp": true, "Age": true,
}

// normal sets aside what cannot be equal.
func normal(v any, noMessage bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			if aside[k] || (noMessage && k == "message") {
				continue
			}
			out[k] = normal(x, noMessage)
			if causes, ok := out[k].([]any); ok && k == "causes" {
				out[k] = once(causes)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = normal(x, noMessage)
		}
		return out
	}
	return v
}

// once drops repetitions: the API server checks the metadata of some kinds twice.
func once(list []any) []any {
	var out []any
	for _, x := range list {
		if !slices.ContainsFunc(out, func(y any) bool { return cmp.Equal(x, y) }) {
			out = append(out, x)
		}
	}
	return out
}

// compare asks both and reports a difference.
func compare(t *testing.T, real *reality, e *edge, r row) {
	t.Helper()
	via := real.node
	if r.admin {
		via = real.root
	}
	want, got := ask(t, via, real.base, r), ask(t, e.node, "http://edge", r)
	if r.differs != "" {
		if got.Code != r.edgeCode {
			t.Errorf("the edge answers %d, expected %d (%s): %v", got.Code, r.edgeCode, r.differs, got.Body)
		}
		if cmp.Equal(want, got) {
			t.Errorf("both answer the same, %d: the difference that the row explains is gone", got.Code)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s %s\nfrom the API server (-) to the edge (+):\n%s", r.method, r.path, diff)
	}
}

// stream reads the events of a watch.
type stream struct {
	body io.ReadCloser
	*json.Decoder
}

func watchOf(t *testing.T, via http.RoundTripper, base, path string) *stream {
	t.Helper()
	resp, err := send(t.Context(), via, base, row{method: http.MethodGet, path: path})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("watch %s: code %d: %s", path, resp.StatusCode, b)
	}
	return &stream{resp.Body, json.NewDecoder(resp.Body)}
}

// next returns the next n events in their normal form, or says where the stream ended.
func (s *stream) next(n int) []any {
	var out []any
	for range n {
		var e map[string]any
		if err := s.Decode(&e); err != nil {
			return append(out, fmt.Sprintf("the stream ended: %v", err))
		}
		out = append(out, normal(e, false))
	}
	return out
}
