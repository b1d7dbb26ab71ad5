package run

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestProfilesAndHealthAreServed(t *testing.T) {
	mux := http.NewServeMux()
	var unready error = errors.New("the disk is full")
	Health(mux, func() error { return unready })
	Profiling(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/healthz": {200, "ok"}, "/readyz": {503, "the disk is full"}, "/debug/pprof/": {200, "goroutine"}, "/debug/pprof/heap?debug=1": {200, "heap profile"},
	} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != want.code || !strings.Contains(string(body), want.text) {
			t.Errorf("%s: got %s, %v, want %d with %q", path, resp.Status, err, want.code, want.text)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}
