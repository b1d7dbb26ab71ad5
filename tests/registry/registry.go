// Package registry is an image registry for tests: a real one over TLS that can be told to refuse, to fail and to hang.
//
// It promises that nothing is contacted but itself, and that what it is told counts from the next request on. tests/images
// and tests/e2e use it.
package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	upstream "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Registry is one registry. Close it.
type Registry struct {
	images    http.Handler
	server    *http.Server
	authority []byte
	config    *tls.Config
	address   string

	mu sync.Mutex // guards what follows
	// instead answers in the registry's place, where it is set.
	instead http.HandlerFunc
	// users may pull, by name, with a password; everybody may where there is none.
	users map[string]string
	// heard counts the requests by method and path.
	heard map[string]int
}

// New serves an empty registry on a free port of an address.
func New(host string) (*Registry, error) {
	r := &Registry{images: upstream.New(upstream.Logger(log.New(io.Discard, "", 0))), heard: map[string]int{}}
	if err := r.certify(host); err != nil {
		return nil, fmt.Errorf("make a registry: %w", err)
	}
	r.address = net.JoinHostPort(host, "0")
	return r, r.Open()
}

// certify makes the registry's certificate, which is its own authority.
func (r *Registry) certify(host string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	r.authority = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	r.config = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return nil
}

// Address is the registry's host:port, with which image names begin.
func (r *Registry) Address() string { return r.address }

// Authority is what the registry's certificate is to be checked against (PEM).
func (r *Registry) Authority() []byte { return r.authority }

// Open serves, again after Close at the same port.
func (r *Registry) Open() error {
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	r.address = l.Addr().String()
	r.server = &http.Server{Handler: r, TLSConfig: r.config, ErrorLog: log.New(io.Discard, "", 0)}
	server := r.server
	go func() { _ = server.ServeTLS(l, "", "") }() // it ends with Close
	return nil
}

// Close ends the server and its connections: who asks is refused by the kernel.
func (r *Registry) Close() error { return r.server.Close() }

// Restrict lets in only users with their passwords; nil lets everybody in.
func (r *Registry) Restrict(users map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = users
}

// Say answers every request with a status; 0 lets the registry answer.
func (r *Registry) Say(code int) {
	if code == 0 {
		r.Answer(nil)
		return
	}
	r.Answer(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, http.StatusText(code), code) })
}

// Hang answers nothing until what comes after Hang is told, or the client gives up.
func (r *Registry) Hang() {
	r.Answer(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
}

// Trickle sends layers at a rate of size bytes each interval, and answers everything else.
func (r *Registry) Trickle(size int, interval time.Duration) {
	r.Answer(func(w http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.URL.Path, "/blobs/") {
			r.images.ServeHTTP(w, req)
			return
		}
		record := httptest.NewRecorder()
		r.images.ServeHTTP(record, req)
		for k, v := range record.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(record.Code)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for body := record.Body; body.Len() > 0; {
			if _, err := w.Write(body.Next(size)); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-req.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
}

// Answer lets h answer in place of the registry; nil ends that.
func (r *Registry) Answer(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instead = h
}

// Requests counts the requests whose method and path begin with prefix, such as "HEAD /v2/app/manifests/".
func (r *Registry) Requests(prefix string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for line, times := range r.heard {
		if strings.HasPrefix(line, prefix) {
			n += times
		}
	}
	return n
}

// ServeHTTP is one request.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.heard[req.Method+" "+req.URL.Path]++
	instead, users := r.instead, r.users
	r.mu.Unlock()
	if instead != nil {
		instead(w, req)
		return
	}
	if users != nil {
		name, password, _ := req.BasicAuth()
		if want, ok := users[name]; !ok || want != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
	}
	r.images.ServeHTTP(w, req)
}

// put makes one request of our own, whatever the registry is told to say.
func (r *Registry) put(ctx context.Context, method, path, contentType string, body []byte) error {
	req := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.images.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return nil
}

// Push puts an image into the registry under repository and tag and returns the image's full name.
func (r *Registry) Push(ctx context.Context, repository, tag string, image v1.Image) (name string, err error) {
	layers, err := image.Layers()
	if err != nil {
		return "", err
	}
	blobs := map[string][]byte{}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return "", err
		}
		content, err := l.Compressed()
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil {
			return "", err
		}
		blobs[digest.String()] = data
	}
	config, err := image.ConfigName()
	if err != nil {
		return "", err
	}
	if blobs[config.String()], err = image.RawConfigFile(); err != nil {
		return "", err
	}
	for digest, data := range blobs {
		if err := r.put(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest, "application/octet-stream", data); err != nil {
			return "", fmt.Errorf("push a blob: %w", err)
		}
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return "", err
	}
	kind, err := image.MediaType()
	if err != nil {
		return "", err
	}
	if err := r.put(ctx, http.MethodPut, "/v2/"+repository+"/manifests/"+tag, string(kind), manifest); err != nil {
		return "", fmt.Errorf("push a manifest: %w", err)
	}
	return r.address + "/" + repository + ":" + tag, nil
}

// Load reads the image of an OCI archive; dir is for its files and must outlive the image.
func Load(archive, dir string) (v1.Image, error) {
	file, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+header.Name))
		if header.Typeflag == tar.TypeDir {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return nil, err
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", archive, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("read %s: expected one image, found %+v, %w", archive, manifest, err)
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// Mark returns an image that runs as another does, and is another.
func Mark(image v1.Image, mark string) (v1.Image, error) {
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Author = mark
	return mutate.ConfigFile(image, config)
}
