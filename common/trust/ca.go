package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tether-edge/tether/common/pki"
)

// The Secret of the CA and its keys.
const (
	CASecret = "tether-edge-ca"
	keyCert  = "ca.crt"
	keyKey   = "ca.key"
	// keyCross is the present CA's certificate by the one before it, keyFormer the certificates of all before it that
	// are still trusted.
	keyCross  = "cross.crt"
	keyFormer = "former.crt"
)

// caValidity is how long a CA lives. Edges take up its successor with their next certificate.
const caValidity = 10 * 365 * 24 * time.Hour

// ErrNoCA: the cluster has no edge CA yet.
var ErrNoCA = errors.New("the cluster has no edge CA")

// An Authority is a cluster's edge CA with those before it. It is immutable.
type Authority struct {
	// CA signs.
	CA *pki.CA
	// cross is what the CA before this one says of it; nil if there was none.
	cross  []byte
	bundle []byte
	pool   *x509.CertPool
}

// Bundle is every trusted CA certificate in PEM, the present one first.
func (a *Authority) Bundle() []byte { return bytes.Clone(a.bundle) }

// Pool is the same as a pool, which must not be changed.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// Pin names the present CA in join tokens.
func (a *Authority) Pin() string { return pki.Pin(a.CA.Cert()) }

// Chain is the present CA's certificate and, if there is one, what the CA before it says of it, in PEM.
func (a *Authority) Chain() []byte { return append(a.CA.CertPEM(), a.cross...) }

// Server makes a certificate for a CloudCore with a key of its own, for pki.ServerName and the given names and
// addresses. It is shown with what an edge that knows only the CA before this one needs to trust it.
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
	return s.parseCA(secret)
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
	a, err = s.parseCA(secret)
	return a, true, err
}

// RotateCA makes a new CA that the present one vouches for. The present one signs nothing more and stays trusted, so
// that no edge notices: it learns the new one with its next certificate.
func (s *Store) RotateCA(ctx context.Context) (*Authority, error) {
	next, err := pki.NewCA("tether edge CA", caValidity, s.now)
	if err != nil {
		return nil, err
	}
	key, err := next.KeyPEM()
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, CASecret, kindCA, func(data map[string][]byte) error {
		if len(data) == 0 {
			return ErrNoCA
		}
		now, err := pki.ParseCA(data[keyCert], data[keyKey], s.now)
		if err != nil {
			return err
		}
		cross, err := now.Cross(next)
		if err != nil {
			return err
		}
		data[keyFormer] = append(now.CertPEM(), data[keyFormer]...)
		data[keyCert], data[keyKey], data[keyCross] = next.CertPEM(), key, cross
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("rotate the edge CA: %w", err)
	}
	return s.CA(ctx)
}

// RetireCAs ends the trust in every CA but the present one: certificates that they signed no longer open a session.
func (s *Store) RetireCAs(ctx context.Context) error {
	return s.change(ctx, CASecret, kindCA, func(data map[string][]byte) error {
		if len(data) == 0 {
			return ErrNoCA
		}
		delete(data, keyFormer)
		delete(data, keyCross)
		return nil
	})
}

func (s *Store) parseCA(secret *corev1.Secret) (*Authority, error) {
	ca, err := pki.ParseCA(secret.Data[keyCert], secret.Data[keyKey], s.now)
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", Namespace, CASecret, err)
	}
	a := &Authority{CA: ca, cross: secret.Data[keyCross], bundle: append(ca.CertPEM(), secret.Data[keyFormer]...), pool: x509.NewCertPool()}
	certs, err := pki.ParseCertificates(a.bundle)
	if err != nil {
		return nil, fmt.Errorf("Secret %s/%s: %w", Namespace, CASecret, err)
	}
	for _, c := range certs {
		a.pool.AddCert(c)
	}
	return a, nil
}
