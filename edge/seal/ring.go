package seal

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/chacha20poly1305"
)

var (
	// ErrNoKey: a body was sealed with a key that the ring does not have, or cannot open.
	ErrNoKey = errors.New("sealed with a key that is not there")
	// ErrForged: a body is not what was sealed with this key in this context.
	ErrForged = errors.New("not what was sealed")
)

// Names of the sources, as Status and the metrics show them.
const (
	SourceTPM        = "tpm"
	SourceCredential = "systemd-credential"
	SourceFile       = "key-file"
)

// maxAge is how old a key may be at a start. The number of bodies sealed with one does not matter: with random nonces of
// 192 bits no edge lives long enough to repeat one.
const maxAge = 183 * 24 * time.Hour

// Config says where keys may come from.
type Config struct {
	// Dir holds the ring and, where nothing better is there, the key file. It is created if absent.
	Dir string
	// TPM is the device of a TPM 2.0 with a resource manager, or the Unix socket of one; empty for none.
	TPM string
	// Credential is the file that holds a systemd credential; empty for none.
	Credential string
	// Patience is how long Open waits for a TPM that the present key needs and that does not answer: at boot its
	// driver may come up later than edgecore.
	Patience time.Duration
}

// Deps are what a ring uses of its surroundings. A nil Now is the machine's clock, a nil Registerer registers nothing.
type Deps struct {
	Log        *slog.Logger
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// Status says how bodies are sealed. It does not change after Open.
type Status struct {
	// Source is what seals the present key: tpm, systemd-credential or key-file.
	Source string `json:"source"`
	// PassedOver says why no better source is used, one sentence each.
	PassedOver []string `json:"passedOver,omitempty"`
	// Created is when the present key was made.
	Created time.Time `json:"created"`
	// Lost says which former keys cannot be had, and why.
	Lost []string `json:"lost,omitempty"`
}

// A Ring seals with its present key and opens with all that it has. It is safe for concurrent use, but for Keep.
type Ring struct {
	path    string
	keyFile string
	now     func() time.Time
	log     *slog.Logger
	entries []entry
	present int64
	keys    map[int64]cipher.AEAD
	status  Status
}

// Open reads the ring, opens the keys whose sources are there, and makes a new key where the present one cannot be had,
// is old, or is sealed by a lesser source than the machine has. The caller sees to it that no other process has the
// directory.
//
// Errors: that of the file system; that a later version wrote the ring; ctx's.
func Open(ctx context.Context, cfg Config, deps Deps) (*Ring, error) {
	r := &Ring{path: filepath.Join(cfg.Dir, ringName), keyFile: filepath.Join(cfg.Dir, keyFileName), now: deps.Now, log: deps.Log, keys: map[int64]cipher.AEAD{}}
	if r.now == nil {
		r.now = time.Now
	}
	var err error
	if r.entries, err = readRing(r.path, r.log); err != nil {
		return nil, err
	}
	s := newSources(cfg, r.keyFile)
	if err := r.unwrap(ctx, s, cfg.Patience); err != nil {
		return nil, err
	}
	if reason := r.stale(s); reason != "" {
		if err := r.renew(s); err != nil && r.present == 0 {
			return nil, fmt.Errorf("seal: %w", err)
		} else if err != nil {
			r.log.Warn("no new key is made, the present one goes on", "wanted", reason, "error", err)
		} else {
			r.log.Info("a new key for stored Secrets and tokens", "reason", reason, "key", r.present)
		}
	}
	r.report(s)
	return r, r.register(deps.Registerer)
}

// unwrap opens what keys can be had. The last entry is the present key's: for its TPM it waits.
func (r *Ring) unwrap(ctx context.Context, s *sources, patience time.Duration) error {
	for i, e := range r.entries {
		key, err := s.unwrap(e)
		if i == len(r.entries)-1 && errors.Is(err, errAway) && patience > 0 {
			r.log.Warn("the TPM that stored Secrets are sealed with does not answer, waiting for it", "error", err, "for", patience)
			key, err = s.await(ctx, e, patience)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("seal: %w", ctx.Err())
		}
		if err == nil {
			err = r.add(e.ID, key)
		}
		if err != nil {
			r.status.Lost = append(r.status.Lost, fmt.Sprintf("key %d, made %s, sealed by %s: %v", e.ID, e.Created.Format(time.DateOnly), e.Source, err))
			r.log.Error("a key of stored Secrets and tokens cannot be had: what is sealed with it cannot be read, and comes from the cloud again",
				"key", e.ID, "source", e.Source, "error", err)
		}
	}
	if n := len(r.entries); n > 0 && r.keys[r.entries[n-1].ID] != nil {
		r.present = r.entries[n-1].ID
	}
	return nil
}

func (r *Ring) add(id int64, key []byte) error {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return err
	}
	r.keys[id] = aead
	return nil
}

// stale says why the present key is not to be used further, or "".
func (r *Ring) stale(s *sources) string {
	if r.present == 0 && len(r.entries) == 0 {
		return "there was none"
	}
	if r.present == 0 {
		return "the present one cannot be had"
	}
	e := r.entries[len(r.entries)-1]
	if better := s.better(e.Source); better != "" {
		return fmt.Sprintf("the present one is sealed by %s, and this machine has %s", e.Source, better)
	}
	if r.now().Sub(e.Created) > maxAge {
		return "the present one is from " + e.Created.Format(time.DateOnly)
	}
	return ""
}

// renew makes a key, has the best source that works seal it, and makes it the present one once that is on the disk.
func (r *Ring) renew(s *sources) error {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	e := entry{ID: r.newID(), Created: r.now().UTC().Truncate(time.Second)}
	var err error
	if e.Source, e.Wrapped, err = s.wrap(e.ID, key); err != nil {
		return err
	}
	if r.present != 0 && rank(e.Source) > rank(r.entries[len(r.entries)-1].Source) {
		return fmt.Errorf("only %s would seal it", e.Source)
	}
	if err := r.add(e.ID, key); err != nil {
		return err
	}
	entries := append(slices.Clone(r.entries), e)
	if err := writeRing(r.path, entries); err != nil {
		return err
	}
	r.entries, r.present = entries, e.ID
	return nil
}

// newID is random, since a ring that was lost must not give an id out again: what was sealed with the former key of that
// id would look forged. It is below 2^53, so that no tool that takes numbers for floating point shows another.
func (r *Ring) newID() int64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		id := int64(binary.BigEndian.Uint64(b[:]) >> 11)
		if id != 0 && !slices.ContainsFunc(r.entries, func(e entry) bool { return e.ID == id }) {
			return id
		}
	}
}

func (r *Ring) report(s *sources) {
	e := r.entries[len(r.entries)-1]
	r.status.Source, r.status.Created, r.status.PassedOver = e.Source, e.Created, s.passedOver
	r.log.Info("stored Secrets and tokens are sealed", "source", e.Source, "key", e.ID, "passedOver", s.passedOver)
}

// Status says how bodies are sealed.
func (r *Ring) Status() Status { return r.status }

// Keys returns the ids of the keys that Unseal has, the present one first. None is 0.
func (r *Ring) Keys() []int64 {
	ids := []int64{r.present}
	for _, e := range r.entries {
		if e.ID != r.present && r.keys[e.ID] != nil {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// Seal seals a body with the present key, whose id it returns. The sealed one is 40 bytes longer. It opens in the same
// context only.
func (r *Ring) Seal(plain, context []byte) (id int64, sealed []byte) {
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	rand.Read(nonce)
	return r.present, r.keys[r.present].Seal(nonce, nonce, plain, context)
}

// Unseal opens what Seal returned. The error is ErrNoKey or ErrForged.
func (r *Ring) Unseal(id int64, sealed, context []byte) ([]byte, error) {
	aead := r.keys[id]
	if aead == nil {
		return nil, fmt.Errorf("%w: %d", ErrNoKey, id)
	}
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("%w: %d bytes", ErrForged, len(sealed))
	}
	nonce, body := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plain, err := aead.Open([]byte{}, nonce, body, context)
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}

// Keep forgets all keys but the present one and those of these ids: nothing is sealed with them any more. It must not be
// called beside other methods.
func (r *Ring) Keep(ids []int64) error {
	kept := slices.DeleteFunc(slices.Clone(r.entries), func(e entry) bool { return e.ID != r.present && !slices.Contains(ids, e.ID) })
	if len(kept) == len(r.entries) {
		return nil
	}
	if err := writeRing(r.path, kept); err != nil {
		return fmt.Errorf("seal: forget keys: %w", err)
	}
	for _, e := range r.entries {
		if !slices.ContainsFunc(kept, func(k entry) bool { return k.ID == e.ID }) {
			r.log.Info("a key of stored Secrets and tokens is forgotten: nothing is sealed with it", "key", e.ID, "source", e.Source)
			delete(r.keys, e.ID)
		}
	}
	r.entries = kept
	if slices.ContainsFunc(kept, func(e entry) bool { return e.Source == SourceFile }) {
		return nil
	}
	return file{r.keyFile}.remove()
}

// register shows the source as a metric.
func (r *Ring) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	source := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "seal", Name: "source",
		Help: "1 for the source whose key seals stored Secrets and tokens."}, []string{"source"})
	lost := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "seal", Name: "lost_keys",
		Help: "Former keys that could not be had at the start."})
	for _, name := range ranking {
		source.WithLabelValues(name).Set(0)
	}
	source.WithLabelValues(r.status.Source).Set(1)
	lost.Set(float64(len(r.status.Lost)))
	if err := errors.Join(reg.Register(source), reg.Register(lost)); err != nil {
		return fmt.Errorf("seal: register metrics: %w", err)
	}
	return nil
}
