package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAnswersShowRestartsAndTheMountedFile(t *testing.T) {
	message := filepath.Join(t.TempDir(), "message")
	started := time.Now()
	web := httptest.NewServer((&server{messageFile: message, started: started}).handler())
	defer web.Close()
	get := func(path string) string {
		t.Helper()
		response, err := http.Get(web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for i, text := range []string{"first", "second"} {
		if err := os.WriteFile(message, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		var s state
		if err := json.Unmarshal([]byte(get("/")), &s); err != nil {
			t.Fatal(err)
		}
		if s.Message != text || s.Requests != int64(i+1) || !s.Started.Equal(started) || s.Hostname == "" {
			t.Errorf("expected message %q, request %d and start %s, found %+v", text, i+1, started, s)
		}
	}
	if body := get("/files?path=" + url.QueryEscape(message)); body != "second\n" {
		t.Errorf("expected the file's content, found %q", body)
	}
	if body := get("/files?path=" + url.QueryEscape(filepath.Dir(message))); body != "message\n" {
		t.Errorf("expected the directory's names, found %q", body)
	}
	t.Setenv("DEMO_TEST", "value")
	if body := get("/env"); !strings.Contains(body, "DEMO_TEST=value\n") {
		t.Errorf("expected the environment, found %q", body)
	}
}

func TestGetShowsStatusAndToken(t *testing.T) {
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "you are "+r.Header.Get("Authorization"), http.StatusForbidden)
	}))
	defer web.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code, err := run([]string{"get", web.URL, token}, &out)
	if err != nil || code != 0 || !strings.HasPrefix(out.String(), "403 you are Bearer abc") {
		t.Errorf("code %d, %v, %q", code, err, out.String())
	}
	web.Close()
	if code, err := run([]string{"get", web.URL}, &out); code != 1 || err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("of a server that is gone: code %d, %v", code, err)
	}
}

func TestSubCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	cases := []struct {
		args   []string
		code   int
		out    string
		failed string // words of the error
	}{
		{args: []string{"exit", "7"}, code: 7},
		{args: []string{"exit", "x"}, code: 2, failed: "0 to 255"},
		{args: []string{"write", file, "text"}},
		{args: []string{"cat", file}, out: "text"},
		{args: []string{"cat", file + "-absent"}, code: 1, failed: "no such file"},
		{args: []string{"again"}, code: 1, failed: "expected a file"},
		{args: []string{"again", file + "-again"}, code: 1, failed: "no such file"},
		{args: []string{"cat", file + "-again"}, out: "it was here before\n"},
		{args: []string{"lines", "2"}, out: strings.Repeat("0", 99) + "\n" + strings.Repeat("0", 98) + "1\n"},
		{args: []string{"lines", "1", file}},
		{args: []string{"cat", file}, out: "text" + strings.Repeat("0", 99) + "\n"},
		{args: []string{"lines", "1", file + "-absent"}, code: 1, failed: "no such file"},
		{args: []string{"lines", "many"}, code: 1, failed: "number of lines"},
		{args: []string{"sleep", "0"}},
		{args: []string{"sleep", "-1"}, code: 1, failed: "number of seconds"},
		{args: []string{"dance"}, code: 2, failed: `found "dance"`},
	}
	for _, c := range cases {
		var out bytes.Buffer
		code, err := run(c.args, &out)
		if code != c.code || out.String() != c.out || (err == nil) != (c.failed == "") || err != nil && !strings.Contains(err.Error(), c.failed) {
			t.Errorf("%v: expected code %d, output %q, error %q, found %d, %q, %v", c.args, c.code, c.out, c.failed, code, out.String(), err)
		}
	}
}

func TestTheServerServesZeros(t *testing.T) {
	h := (&server{}).handler()
	for path, want := range map[string]struct{ code, bytes int }{"/zeros/100000": {200, 100000}, "/zeros/0": {200, 0}, "/zeros/-1": {400, -1}, "/zeros/many": {400, -1}} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.code || want.bytes >= 0 && !bytes.Equal(w.Body.Bytes(), make([]byte, want.bytes)) {
			t.Errorf("%s: status %d and %d bytes, expected %+v", path, w.Code, w.Body.Len(), want)
		}
	}
}
