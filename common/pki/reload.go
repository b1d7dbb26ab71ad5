package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// fileState tells whether a file was replaced or rewritten. os.SameFile compares device and inode.
type fileState struct {
	info os.FileInfo
	err  string
}

func stat(path string) fileState {
	info, err := os.Stat(path)
	if err != nil {
		return fileState{err: err.Error()}
	}
	return fileState{info: info}
}

func (s fileState) same(o fileState) bool {
	if s.info == nil || o.info == nil {
		return s.info == nil && o.info == nil && s.err == o.err
	}
	return os.SameFile(s.info, o.info) && s.info.ModTime().Equal(o.info.ModTime()) && s.info.Size() == o.info.Size()
}

// watched is a value read from files, read again when one of them changed. If that fails the last good value stays:
// a connection with an old certificate is better than none, and the next change is tried again.
type watched[T any] struct {
	files []string
	read  func() (T, error)
	log   *slog.Logger

	mu    sync.Mutex // guards seen and value
	seen  []fileState
	value T
}

func newWatched[T any](log *slog.Logger, read func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, read: read, log: log}
	w.seen = w.states()
	var err error
	w.value, err = read()
	return w, err
}

func (w *watched[T]) states() []fileState {
	var s []fileState
	for _, f := range w.files {
		s = append(s, stat(f))
	}
	return s
}

func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	// The state is taken before reading, so a change during the reading is seen next time.
	now, changed := w.states(), false
	for i := range now {
		changed = changed || !now[i].same(w.seen[i])
	}
	if !changed {
		return w.value
	}
	w.seen = now
	v, err := w.read()
	if err != nil {
		w.log.Warn("changed certificate files cannot be used, the former ones stay in use", "files", w.files, "err", err)
		return w.value
	}
	w.log.Info("certificate files read again", "files", w.files)
	w.value = v
	return v
}

// An Identity is a certificate and its private key in two files, read again when they change. It is safe for
// concurrent use.
type Identity struct{ w *watched[*tls.Certificate] }

// NewIdentity reads the files once, so that a missing, unreadable or mismatched pair is an error at start. Later
// changes that cannot be used are logged, and the last good pair stays.
func NewIdentity(certFile, keyFile string, log *slog.Logger) (*Identity, error) {
	w, err := newWatched(log, func() (*tls.Certificate, error) { return readPair(certFile, keyFile) }, certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate and key: %w", err)
	}
	return &Identity{w}, nil
}

// Certificate returns the current certificate with its key, Leaf set. It must not be changed.
func (i *Identity) Certificate() *tls.Certificate { return i.w.get() }

// Check returns an error that matches ErrExpired if the certificate is outside its time by the given clock.
func (i *Identity) Check(now Clock) error { return checkTime(i.Certificate().Leaf, now()) }

// Authorities are the certificates of one CA file, read again when it changes. It is safe for concurrent use.
type Authorities struct{ w *watched[*x509.CertPool] }

// NewAuthorities reads caFile once, so that a file that is missing or holds no authority is an error at start.
func NewAuthorities(caFile string, log *slog.Logger) (*Authorities, error) {
	w, err := newWatched(log, func() (*x509.CertPool, error) {
		certs, err := ReadCertificates(caFile)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			if !c.IsCA {
				return nil, fmt.Errorf("%s: the certificate of %q is no authority's: expected a CA file", caFile, c.Subject)
			}
			pool.AddCert(c)
		}
		return pool, nil
	}, caFile)
	if err != nil {
		return nil, fmt.Errorf("load authorities: %w", err)
	}
	return &Authorities{w}, nil
}

// Pool returns the current authorities. It must not be changed.
func (a *Authorities) Pool() *x509.CertPool { return a.w.get() }
