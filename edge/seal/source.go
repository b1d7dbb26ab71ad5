package seal

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/tether-edge/tether/common/pki"
)

// A source seals data keys. A key that it sealed opens under the same id only.
type source interface {
	wrap(id int64, key []byte) ([]byte, error)
	// unwrap returns errAway where trying again may help.
	unwrap(id int64, wrapped []byte) ([]byte, error)
}

// errAway: the source is not there now, and may be later.
var errAway = errors.New("it does not answer")

// ranking is the order of sources, the best first.
var ranking = []string{SourceTPM, SourceCredential, SourceFile}

func rank(name string) int { return slices.Index(ranking, name) }

// sources are those of this machine.
type sources struct {
	have map[string]source
	// passedOver says why those that are better than the one in use are not used.
	passedOver []string
}

func newSources(cfg Config, keyFile string) *sources {
	s := &sources{have: map[string]source{SourceTPM: &tpm{path: cfg.TPM, timeout: tpmTimeout}, SourceFile: file{keyFile}}}
	if cfg.Credential != "" {
		s.have[SourceCredential] = credential{cfg.Credential}
	} else {
		s.have[SourceCredential] = nowhere("systemd passes no credential of this name")
	}
	if cfg.TPM == "" {
		s.have[SourceTPM] = nowhere("the configuration names none")
	}
	return s
}

func (s *sources) unwrap(e entry) ([]byte, error) {
	from := s.have[e.Source]
	if from == nil {
		return nil, fmt.Errorf("this version knows no source %q", e.Source)
	}
	return from.unwrap(e.ID, e.Wrapped)
}

// await asks a source again until it answers or the time is over.
func (s *sources) await(ctx context.Context, e entry, patience time.Duration) (key []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(min(patience, time.Second))
	defer tick.Stop()
	for {
		if key, err = s.unwrap(e); !errors.Is(err, errAway) {
			return key, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// probe is what better has sources seal to see whether they work.
var probe = make([]byte, chacha20poly1305.KeySize)

// better returns the name of the best source that works and is better than that one, or "".
func (s *sources) better(than string) string {
	s.passedOver = nil
	for _, name := range ranking[:max(0, rank(than))] {
		_, err := s.have[name].wrap(0, probe)
		if err == nil {
			return name
		}
		s.passOver(name, err)
	}
	return ""
}

func (s *sources) passOver(name string, err error) {
	s.passedOver = append(s.passedOver, name+": "+err.Error())
}

// wrap seals a key with the best source that works.
func (s *sources) wrap(id int64, key []byte) (name string, wrapped []byte, err error) {
	s.passedOver = nil
	for _, name := range ranking {
		if wrapped, err = s.have[name].wrap(id, key); err == nil {
			return name, wrapped, nil
		}
		s.passOver(name, err)
	}
	return "", nil, err
}

// nowhere is a source that this machine does not have, and why.
type nowhere string

func (n nowhere) wrap(int64, []byte) ([]byte, error)   { return nil, errors.New(string(n)) }
func (n nowhere) unwrap(int64, []byte) ([]byte, error) { return nil, errors.New(string(n)) }

// A credential is a file that systemd shows to the service alone. What systemd sealed it with on the disk is systemd's.
type credential struct{ path string }

// minSecret and maxSecret bound a credential, in bytes.
const (
	minSecret = 32
	maxSecret = 1 << 20
)

func (c credential) secret() ([]byte, error) {
	info, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("systemd passes no credential of this name")
	}
	if err != nil {
		return nil, err
	}
	if info.Size() < minSecret || info.Size() > maxSecret {
		return nil, fmt.Errorf("%s: expected %d to %d bytes, found %d", c.path, minSecret, maxSecret, info.Size())
	}
	return os.ReadFile(c.path)
}

func (c credential) wrap(id int64, key []byte) ([]byte, error) {
	secret, err := c.secret()
	if err != nil {
		return nil, err
	}
	return wrapWith(secret, id, key)
}

func (c credential) unwrap(id int64, wrapped []byte) ([]byte, error) {
	secret, err := c.secret()
	if err != nil {
		return nil, err
	}
	return unwrapWith(secret, id, wrapped)
}

// A file is a key file, made when it is first needed. Whoever can read it and the ring beside it can open everything. One
// that cannot be read now may be read another day, with all that it sealed, so it is left alone: a spare seals meanwhile.
type file struct{ path string }

// paths are those of the key file and of its spare.
func (f file) paths() []string { return []string{f.path, f.path + ".spare"} }

// errNoSecret: there is no key file, or what is in it is none, so that the keys that it sealed are lost already.
var errNoSecret = errors.New("no key file")

func readKeyFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoSecret, err)
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(path, 0o600); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, minSecret)
	if len(text) != 2*minSecret+1 {
		return nil, fmt.Errorf("%w: %s: expected %d bytes, found %d", errNoSecret, path, 2*minSecret+1, len(text))
	}
	if _, err := hex.Decode(secret, text[:2*minSecret]); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errNoSecret, path, err)
	}
	return secret, nil
}

// secret is that of the first file that can be read or made.
func (f file) secret() (secret []byte, err error) {
	for _, path := range f.paths() {
		if secret, err = readKeyFile(path); errors.Is(err, errNoSecret) {
			secret = make([]byte, minSecret)
			rand.Read(secret)
			return secret, pki.WriteFile(path, fmt.Appendf(nil, "%x\n", secret), 0o600)
		}
		if err == nil {
			return secret, nil
		}
	}
	return nil, err
}

func (f file) wrap(id int64, key []byte) ([]byte, error) {
	secret, err := f.secret()
	if err != nil {
		return nil, err
	}
	return wrapWith(secret, id, key)
}

// unwrap tells of the key file where the spare, which mostly is not there, does not open it either.
func (f file) unwrap(id int64, wrapped []byte) ([]byte, error) {
	var first error
	for _, path := range f.paths() {
		secret, err := readKeyFile(path)
		if err == nil {
			var key []byte
			if key, err = unwrapWith(secret, id, wrapped); err == nil {
				return key, nil
			}
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// remove takes the key file and its spare away.
func (f file) remove() (err error) {
	for _, path := range f.paths() {
		err = errors.Join(err, removeKeyFile(path))
	}
	return err
}

// removeKeyFile takes a key file away that seals nothing any more. What it sealed may still be in the blocks of a flash
// disk, and so are the zeros that are written here, perhaps in others: the keys that it sealed are no longer used.
func removeKeyFile(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, make([]byte, info.Size()), 0o600)
	}
	return errors.Join(err, os.Remove(path))
}

// saltSize is the length of the salt before a wrapped key; the nonce and the sealed key follow.
const saltSize = 32

func wrapWith(secret []byte, id int64, key []byte) ([]byte, error) {
	out := make([]byte, saltSize+chacha20poly1305.NonceSizeX)
	rand.Read(out)
	aead, err := derive(secret, out[:saltSize])
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, out[saltSize:], key, idBytes(id)), nil
}

func unwrapWith(secret []byte, id int64, wrapped []byte) ([]byte, error) {
	if len(wrapped) < saltSize+chacha20poly1305.NonceSizeX {
		return nil, fmt.Errorf("expected %d bytes or more, found %d", saltSize+chacha20poly1305.NonceSizeX, len(wrapped))
	}
	aead, err := derive(secret, wrapped[:saltSize])
	if err != nil {
		return nil, err
	}
	key, err := aead.Open(nil, wrapped[saltSize:saltSize+chacha20poly1305.NonceSizeX], wrapped[saltSize+chacha20poly1305.NonceSizeX:], idBytes(id))
	if err != nil {
		return nil, errors.New("it was sealed with another secret than is there now")
	}
	return key, nil
}

func derive(secret, salt []byte) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, secret, salt, "tether seal 1", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	return chacha20poly1305.NewX(k)
}

func idBytes(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }
