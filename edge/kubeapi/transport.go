package kubeapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// Transport returns a round tripper that serves requests in this process, as the node. Nothing is encoded for a wire
// that does not exist: no TLS, no sockets, no copies between buffers of a connection.
//
// It stands for any host. A watch streams until its request's context ends, its body is closed or the server ends it;
// everything else is answered when RoundTrip returns. It leaves no goroutine behind.
func (s *Server) Transport() http.RoundTripper { return &transport{handler: s.handler, caller: s.node} }

// OwnTransport serves the other parts of this program: they may what the kubelet may, and see what people see.
func (s *Server) OwnTransport() http.RoundTripper {
	return &transport{handler: s.handler, caller: &user.DefaultInfo{Name: s.node.GetName(), Groups: s.node.GetGroups(), Extra: map[string][]string{"tether.io/part": {"edgecore"}}}}
}

type transport struct {
	handler http.Handler
	caller  user.Info
}

// RoundTrip implements http.RoundTripper. Errors are those of the request's context.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		req = req.Clone(req.Context())
		req.Body = http.NoBody
	}
	if err := req.Context().Err(); err != nil {
		_ = req.Body.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(request.WithUser(req.Context(), t.caller))
	served := req.Clone(ctx)
	served.RequestURI, served.RemoteAddr = req.URL.RequestURI(), "127.0.0.1:0"
	served.Proto, served.ProtoMajor, served.ProtoMinor = "HTTP/1.1", 1, 1
	if httpstream.IsUpgradeRequest(served) {
		cancel()
		_ = req.Body.Close()
		return nil, fmt.Errorf("%s %s: the in-memory API has no connection to upgrade", req.Method, req.URL.Path)
	}
	if !streams(served) {
		defer cancel()
		return t.answer(req, served)
	}
	return t.stream(req, served, cancel)
}

// streams says whether the answer may be a watch.
func streams(req *http.Request) bool {
	if req.Method != http.MethodGet {
		return false
	}
	q := req.URL.Query()
	return (q.Has("watch") && q.Get("watch") != "false" && q.Get("watch") != "0") || strings.Contains(req.URL.Path, "/watch/")
}

// answer serves a request whose answer is whole.
func (t *transport) answer(req, served *http.Request) (*http.Response, error) {
	defer func() { _ = req.Body.Close() }()
	w := &memoryWriter{header: http.Header{}}
	aborted := serveRecovering(t.handler, w, served)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	if aborted {
		return nil, fmt.Errorf("%s %s: the answer broke off: %w", req.Method, req.URL.Path, io.ErrUnexpectedEOF)
	}
	return w.response(req, io.NopCloser(&w.body), int64(w.body.Len())), nil
}

// serveRecovering reports true if the handler gave up an answer that it had begun.
func serveRecovering(h http.Handler, w http.ResponseWriter, req *http.Request) (aborted bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			aborted = true
		}
	}()
	h.ServeHTTP(w, req)
	return false
}

// memoryWriter holds an answer.
type memoryWriter struct {
	header http.Header
	sent   http.Header // as it was when the code was written
	code   int
	body   bytes.Buffer
}

func (w *memoryWriter) Header() http.Header { return w.header }

func (w *memoryWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code, w.sent = code, w.header.Clone()
	}
}

func (w *memoryWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

func (w *memoryWriter) response(req *http.Request, body io.ReadCloser, length int64) *http.Response {
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), StatusCode: w.code,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: body, ContentLength: length, Request: req,
	}
}

// stream serves a watch: the handler runs beside the reader of the body until either ends.
func (t *transport) stream(req, served *http.Request, cancel context.CancelFunc) (*http.Response, error) {
	r, pw := io.Pipe()
	w := &streamWriter{memoryWriter: memoryWriter{header: http.Header{}}, pipe: pw, begun: make(chan struct{})}
	go func() {
		defer cancel()
		defer func() { _ = req.Body.Close() }()
		if serveRecovering(t.handler, w, served) {
			w.begin(http.StatusInternalServerError)
			_ = pw.CloseWithError(io.ErrUnexpectedEOF)
			return
		}
		w.begin(http.StatusOK)
		// The client's own cancellation is an error of the stream; the server's end is not.
		_ = pw.CloseWithError(req.Context().Err())
	}()
	select {
	case <-w.begun:
		return w.response(req, &streamBody{PipeReader: r, cancel: cancel}, -1), nil
	case <-req.Context().Done():
		cancel()
		_ = r.Close()
		return nil, req.Context().Err()
	}
}

// streamWriter passes an answer on as it is written. Each Write returns once the client has read it.
type streamWriter struct {
	memoryWriter // its header, until begun
	pipe         *io.PipeWriter
	once         sync.Once
	begun        chan struct{}
}

func (w *streamWriter) begin(code int) {
	w.once.Do(func() {
		w.memoryWriter.WriteHeader(code)
		close(w.begun)
	})
}

func (w *streamWriter) WriteHeader(code int) { w.begin(code) }

func (w *streamWriter) Write(b []byte) (int, error) {
	w.begin(http.StatusOK)
	return w.pipe.Write(b)
}

// Flush implements http.Flusher: nothing is ever held back.
func (w *streamWriter) Flush() { w.begin(http.StatusOK) }

// streamBody ends the watch when its reader closes it.
type streamBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *streamBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
