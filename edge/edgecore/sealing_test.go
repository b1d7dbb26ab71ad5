package edgecore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/seal"
	"github.com/tether-edge/tether/edge/store"
)

// sealedNode is an edge whose store runs until end is called, without a cloud and without a kubelet.
func sealedNode(t *testing.T, cfg *v1alpha1.EdgeCore, deps Deps) (e *EdgeCore, end func()) {
	t.Helper()
	deps.Log = slog.New(slog.DiscardHandler)
	e, err := New(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.store.Start(ctx) }()
	return e, func() {
		t.Helper()
		cancel()
		if err := errors.Join(<-done, e.store.Close()); err != nil {
			t.Error(err)
		}
	}
}

const plantedSecret = "planted-Zq7fWv3kXr"

var (
	credential = object.Key{Kind: object.Secrets, Namespace: "shop", Name: "cred"}
	pull       = object.Key{Kind: object.Secrets, Namespace: "shop", Name: "pull"}
)

// plantSecrets stores a Secret, a pull secret and a token as a session would.
func plantSecrets(t *testing.T, e *EdgeCore) {
	t.Helper()
	kind, _ := object.Lookup(object.Secrets)
	var batch []store.Incoming
	for i, k := range []object.Key{credential, pull} {
		o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.Namespace, Name: k.Name, UID: "u", ResourceVersion: object.FormatRV(uint64(i + 1))},
			Data: map[string][]byte{"x": []byte(plantedSecret + strings.Repeat("y", i*3000))}}
		body, err := object.Encode(kind, o)
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, store.Incoming{Key: k, Version: object.Version{UID: "u", RV: uint64(i + 1)}, Body: body})
	}
	if err := e.store.ApplyBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := e.store.SaveToken(t.Context(), "k", "", []byte(plantedSecret), time.Now().AddDate(1, 0, 0)); err != nil {
		t.Fatal(err)
	}
}

func mustHaveSecrets(t *testing.T, e *EdgeCore) {
	t.Helper()
	for _, k := range []object.Key{credential, pull} {
		if r, ok, err := e.store.Get(t.Context(), k); err != nil || !ok || !bytes.Contains(r.Body, []byte(plantedSecret)) {
			t.Errorf("%s: %v, %v", k, ok, err)
		}
	}
	if body, _, ok, err := e.store.LoadToken(t.Context(), "k"); err != nil || !ok || string(body) != plantedSecret {
		t.Errorf("the token is %q, %v, %v", body, ok, err)
	}
}

func mustHideSecrets(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // it went meanwhile
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(b, []byte(plantedSecret)) {
			t.Errorf("%s shows a Secret", path)
		}
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("looked at %d files: %v", files, err)
	}
}

// A node that is started anew offline, weeks later by its clock, has its Secrets, pull secrets and tokens, and no file of
// its data directory shows them, whatever seals.
func TestSecretsAreThereWeeksLaterAndInNoFile(t *testing.T) {
	for name, c := range map[string]struct {
		// has gives the node the source: in its configuration, or in the directory of credentials.
		has  func(t *testing.T, cfg *v1alpha1.EdgeCore, credentials string)
		want string
	}{
		"key file": {func(*testing.T, *v1alpha1.EdgeCore, string) {}, seal.SourceFile},
		"systemd credential": {func(t *testing.T, _ *v1alpha1.EdgeCore, credentials string) {
			if err := os.WriteFile(filepath.Join(credentials, credentialName), bytes.Repeat([]byte("c"), 64), 0o600); err != nil {
				t.Fatal(err)
			}
		}, seal.SourceCredential},
		"TPM": {func(t *testing.T, cfg *v1alpha1.EdgeCore, _ string) { cfg.Store.TPM = softTPM(t) }, seal.SourceTPM},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := joined(t, "edge-1")
			cfg.Store.TPM = ""
			deps := Deps{Credentials: t.TempDir()}
			c.has(t, cfg, deps.Credentials)
			e, end := sealedNode(t, cfg, deps)
			plantSecrets(t, e)
			mustHideSecrets(t, cfg.DataDir)
			end()
			for _, weeks := range []int{3, 40} { // the latter also makes a new key
				deps.Now = func() time.Time { return time.Now().AddDate(0, 0, 7*weeks) }
				e, end = sealedNode(t, cfg, deps)
				mustHaveSecrets(t, e)
				mustHideSecrets(t, cfg.DataDir)
				if st := e.seal.Status(); st.Source != c.want {
					t.Errorf("status %+v, expected %s", st, c.want)
				}
				end()
			}
			if entries := ringEntries(t, cfg); entries != 1 {
				t.Errorf("%d keys are kept, expected that the former one is forgotten", entries)
			}
			mustHideSecrets(t, cfg.DataDir)
		})
	}
}

// softTPM runs Debian's swtpm until the test ends, and returns its socket.
func softTPM(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "swtpm") // the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "tpm")
	c := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatalf("start a software TPM: %v; install it: apt-get install swtpm", err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		if c, err := net.Dial("unix", socket); err == nil {
			_ = c.Close()
			return socket
		} else if time.Now().After(end) {
			t.Fatalf("the software TPM does not answer: %v", err)
		}
	}
}

func ringEntries(t *testing.T, cfg *v1alpha1.EdgeCore) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(cfg.DataDir, "seal", "keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return len(f.Keys)
}

// Without its keys a node starts, says what it lacks, and goes on.
func TestANodeWhoseKeysAreGoneStartsAndSaysSo(t *testing.T) {
	cfg := joined(t, "edge-1")
	cfg.Store.TPM = ""
	e, end := sealedNode(t, cfg, Deps{})
	plantSecrets(t, e)
	end()
	if err := os.RemoveAll(filepath.Join(cfg.DataDir, "seal")); err != nil {
		t.Fatal(err)
	}
	e, end = sealedNode(t, cfg, Deps{})
	defer end()
	w := httptest.NewRecorder()
	e.status(w, httptest.NewRequest(http.MethodGet, "/status", nil))
	var s Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if s.Store.Unreadable != 3 || s.Store.Damaged != "" || s.Sealing.Source != seal.SourceFile {
		t.Errorf("status %s, expected 3 unreadable rows of a sound database", w.Body)
	}
	w = httptest.NewRecorder()
	e.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{`tether_seal_source{source="key-file"} 1`, `tether_seal_source{source="tpm"} 0`, "tether_store_unreadable_rows 3", "tether_seal_lost_keys 0"} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	plantSecrets(t, e) // the cloud sends them again
	mustHaveSecrets(t, e)
}
