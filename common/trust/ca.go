package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tether-edge/tether/common/pki"
)

// The Secret of the CA and its keys.
const (
	CASecret = "tether-edge-ca"
	keyCert  = "ca.crt"
	keyKey   = "ca.key"
	// keyCross is the present CA's certificates by those before it, keyFormer the certificates of all before it that are
	// still trusted, keyFormerKeys their keys: they vouch for the next CA too. Secrets written before that have none.
	keyCross      = "cross.crt"
	keyFormer     = "former.crt"
	keyFormerKeys = "former.key"
)

// maxCAs bounds the CAs that are trusted at one time: each makes every handshake, and every answer to a renewal, longer.
const maxCAs = 8

// caValidity is how long a CA lives. Edges take up its successor with their next certificate.
const caValidity = 10 * 365 * 24 * time.Hour

// ErrNoCA: the cluster has no edge CA yet.
var ErrNoCA = errors.New("the cluster has no edge CA")

// An Authority is a cluster's edge CA with those before it. It is immutable.
type Authority struct {
	// CA signs.
	CA *pki.CA
	// cross is what the CAs before this one say of it; nil if there were none.
	cross  []byte
	bundle []byte
	pool   *x509.CertPool
	// formers are the CAs before this one that are still trusted, the newest first.
	formers []former
}

// HasFormer reports whether a CA before this one is still trusted.
func (a *Authority) HasFormer() bool { return len(a.formers) > 0 }

// A former is a CA that was replaced and is still trusted.
type former struct {
	cert *x509.Certificate
	// ca is nil where its key was not kept: it vouches for nobody any more.
	ca *pki.CA
}

// Bundle is every trusted CA certificate in PEM, the present one first.
func (a *Authority) Bundle() []byte { return bytes.Clone(a.bundle) }

// Pool is the same as a pool, which must not be changed.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// Pin names the present CA in join tokens.
func (a *Authority) Pin() string { return pki.Pin(a.CA.Cert()) }

// Chain is the present CA's certificate and what the CAs before it say of it, in PEM.
func (a *Authority) Chain() []byte { return append(a.CA.CertPEM(), a.cross...) }

// Server makes a certificate for a CloudCore with a key of its own, for pki.ServerName and the given names and
// addresses. It is shown with what an edge that knows only a CA before this one needs to trust it.
func (a *Authority) Server(hosts []string, validity time.Duration) (*tls.Certificate, error) {
	pair, err := a.CA.IssueServer(append([]string{pki.ServerName}, hosts...), validity)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(append(pair.Cert, a.cross...), pair.Key)
	if err != nil {
		return nil, fmt.Errorf("make CloudCore's certificate: %w", err)
	}
	return &cert, nil
}

// CA returns the cluster's edge CA. The error matches ErrNoCA where there is none.
func (s *Store) CA(ctx context.Context) (*Authority, error) {
	secret, err := s.get(ctx, CASecret)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: expected Secret %s/%s, found none: run 'keadm init'", ErrNoCA, Namespace, CASecret)
	}
	if err != nil {
		return nil, fmt.Errorf("read the edge CA: %w", err)
	}
	return s.parseCA(secret.Data)
}

// EnsureCA returns the cluster's edge CA and makes it if there is none. Of several that make one at once the first
// wins, and all return that one.
func (s *Store) EnsureCA(ctx context.Context) (a *Authority, made bool, err error) {
	if a, err := s.CA(ctx); !errors.Is(err, ErrNoCA) {
		return a, false, err
	}
	ca, err := pki.NewCA("tether edge CA", caValidity, s.now)
	if err != nil {
		return nil, false, err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, false, err
	}
	secret, err := s.create(ctx, CASecret, kindCA, map[string][]byte{keyCert: ca.CertPEM(), keyKey: key})
	if apierrors.IsAlreadyExists(err) {
		a, err = s.CA(ctx)
		return a, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("make the edge CA: create Secret %s/%s: %w", Namespace, CASecret, err)
	}
	a, err = s.parseCA(secret.Data)
	return a, true, err
}

// RotateCA makes a new CA that every trusted one vouches for. Those sign no certificate of a node any more and stay
// trusted, so that no edge notices: it learns the new CA with its next certificate, also after several rotations.
//
// A CA whose key was not kept cannot vouch. The nodes that know no other would be locked out: they are named, and without
// force the error is a LockoutError and nothing changes.
func (s *Store) RotateCA(ctx context.Context, force bool) (a *Authority, lost []string, err error) {
	next, err := pki.NewCA("tether edge CA", caValidity, s.now)
	if err != nil {
		return nil, nil, err
	}
	err = s.change(ctx, CASecret, kindCA, func(data map[string][]byte) error {
		if len(data) == 0 {
			return ErrNoCA
		}
		now, err := s.parseCA(data)
		if err != nil {
			return err
		}
		mute := func(f *former) bool { return f.ca == nil }
		if lost, err = s.lockedOut(ctx, now, mute); err != nil {
			return err
		}
		if len(lost) > 0 && !force {
			return &LockoutError{Nodes: lost}
		}
		return now.succeed(data, next, s.now())
	})
	if err != nil {
		return nil, nil, fmt.Errorf("rotate the edge CA: %w", err)
	}
	a, err = s.CA(ctx)
	return a, lost, err
}

// succeed writes into a CA's Secret that next follows it.
func (a *Authority) succeed(data map[string][]byte, next *pki.CA, now time.Time) error {
	key, err := next.KeyPEM()
	if err != nil {
		return err
	}
	all := append([]former{{a.CA.Cert(), a.CA}}, a.formers...)
	all = slices.DeleteFunc(all, func(f former) bool { return now.After(f.cert.NotAfter) })
	if len(all) >= maxCAs {
		return fmt.Errorf("expected fewer than %d edge CAs that are trusted, found %d: end the trust in the former ones with 'keadm certs rotate --retire', then rotate", maxCAs, len(all))
	}
	var crosses, certs, keys []byte
	for _, f := range all {
		certs = append(certs, pki.CertificatePEM(f.cert)...)
		if f.ca == nil {
			continue
		}
		cross, err := f.ca.Cross(next)
		if err != nil {
			return err
		}
		kept, err := f.ca.KeyPEM()
		if err != nil {
			return err
		}
		crosses, keys = append(crosses, cross...), append(keys, kept...)
	}
	data[keyCert], data[keyKey] = next.CertPEM(), key
	data[keyCross], data[keyFormer], data[keyFormerKeys] = crosses, certs, keys
	return nil
}

// RetireCAs ends the trust in every CA but the present one: certificates that they signed no longer open a session, and
// their keys are deleted. The nodes that have no certificate of the present CA would be locked out: they are named, and
// without force the error is a LockoutError and nothing changes.
func (s *Store) RetireCAs(ctx context.Context, force bool) (lost []string, err error) {
	err = s.change(ctx, CASecret, kindCA, func(data map[string][]byte) error {
		if len(data) == 0 {
			return ErrNoCA
		}
		now, err := s.parseCA(data)
		if err != nil {
			return err
		}
		if lost, err = s.lockedOut(ctx, now, func(*former) bool { return true }); err != nil {
			return err
		}
		if len(lost) > 0 && !force {
			return &LockoutError{Nodes: lost}
		}
		delete(data, keyFormer)
		delete(data, keyFormerKeys)
		delete(data, keyCross)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("retire former edge CAs: %w", err)
	}
	return lost, nil
}

// parseCA reads what is in the CA's Secret.
func (s *Store) parseCA(data map[string][]byte) (*Authority, error) {
	ca, err := pki.ParseCA(data[keyCert], data[keyKey], s.now)
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", Namespace, CASecret, err)
	}
	a := &Authority{CA: ca, cross: data[keyCross], bundle: append(ca.CertPEM(), data[keyFormer]...), pool: x509.NewCertPool()}
	certs, err := pki.ParseCertificates(a.bundle)
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", Namespace, CASecret, err)
	}
	for i, c := range certs {
		a.pool.AddCert(c)
		if i > 0 {
			a.formers = append(a.formers, former{c, pki.FindCA(c, data[keyFormerKeys], s.now)})
		}
	}
	return a, nil
}
