package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// The names of the CA's files in its directory.
const (
	CACertFile = "ca.crt"
	CAKeyFile  = "ca.key"
)

// backdate is how long before its making a certificate begins to be valid, so that a machine whose clock is behind by
// less accepts it.
const backdate = 24 * time.Hour

// A CA signs the certificates of the link. It is immutable and safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  Clock
}

// Derive makes a secret from the CA's private key that is the same for the same purpose at any time, and tells nothing of
// the key.
func (ca *CA) Derive(purpose string) ([32]byte, error) {
	var out [32]byte
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return out, fmt.Errorf("derive a secret: %w", err)
	}
	b, err := hkdf.Key(sha256.New, der, nil, "tether "+purpose, len(out))
	if err != nil {
		return out, fmt.Errorf("derive a secret: %w", err)
	}
	return [32]byte(b), nil
}

// A Pair is a certificate and its private key, in PEM.
type Pair struct {
	Cert []byte
	Key  []byte
}

// NewCA makes a CA (ECDSA P-256) that is valid for the given time.
func NewCA(commonName string, validity time.Duration, now Clock) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the CA's key: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // a successor that this CA vouches for; see Cross
	}
	ca := &CA{cert: template, key: key, now: now}
	der, err := ca.sign(template, key.Public(), now().Add(validity))
	if err != nil {
		return nil, fmt.Errorf("make the CA's certificate: %w", err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make the CA's certificate: %w", err)
	}
	return ca, nil
}

// LoadCA reads a CA from the files ca.crt and ca.key in dir. The error matches fs.ErrNotExist if one is missing.
func LoadCA(dir string, now Clock) (*CA, error) {
	pair, err := readPair(filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load CA: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !pair.Leaf.IsCA || !ok {
		return nil, fmt.Errorf("load CA: %s in %s is not a certificate authority's but %q's: expected the files that pki init wrote",
			CACertFile, dir, pair.Leaf.Subject)
	}
	return &CA{cert: pair.Leaf, key: key, now: now}, nil
}

// ParseCA reads a CA from its certificate and key in PEM.
func ParseCA(certPEM, keyPEM []byte, now Clock) (*CA, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !leaf.IsCA || !ok {
		return nil, fmt.Errorf("read CA: the certificate of %q is no authority's", leaf.Subject)
	}
	return &CA{cert: leaf, key: key, now: now}, nil
}

// FindCA returns the CA of a certificate if its key is among keys (PEM), else nil.
func FindCA(cert *x509.Certificate, keys []byte, now Clock) *CA {
	for block, rest := pem.Decode(keys); block != nil; block, rest = pem.Decode(rest) {
		if ca, err := ParseCA(CertificatePEM(cert), pem.EncodeToMemory(block), now); err == nil {
			return ca
		}
	}
	return nil
}

// CertificatePEM returns a certificate in PEM.
func CertificatePEM(cert *x509.Certificate) []byte { return certPEM(cert.Raw) }

// KeyPEM returns the CA's private key in PEM (PKCS #8).
func (ca *CA) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, fmt.Errorf("encode the CA's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Cross returns ca's certificate of another CA's key, in PEM: who trusts ca, trusts what next signs, if it is shown
// both. It is how a CA is replaced without anybody's consent.
func (ca *CA) Cross(next *CA) ([]byte, error) {
	t := &x509.Certificate{
		Subject: next.cert.Subject, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true,
		IsCA: true, MaxPathLenZero: true, SubjectKeyId: next.cert.SubjectKeyId,
	}
	der, err := ca.sign(t, next.key.Public(), ca.cert.NotAfter)
	if err != nil {
		return nil, fmt.Errorf("vouch for the next CA: %w", err)
	}
	return certPEM(der), nil
}

// statement is what is signed of a message: nothing that this CA signs can be taken for a certificate.
func statement(message []byte) []byte {
	sum := sha256.Sum256(append([]byte("tether statement of an edge CA, version 1\n"), message...))
	return sum[:]
}

// Sign signs a message, for Vouched.
func (ca *CA) Sign(message []byte) ([]byte, error) {
	sig, err := ca.key.Sign(rand.Reader, statement(message), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sig, nil
}

// Vouched reports whether a message was signed by one of roots, or by a CA in chain that one of roots vouches for. No
// date is judged: it is how the time itself is learned.
func Vouched(message, signature []byte, chain, roots []*x509.Certificate) bool {
	for _, c := range append(slices.Clone(roots), chain...) {
		key, ok := c.PublicKey.(*ecdsa.PublicKey)
		if !ok || !ecdsa.VerifyASN1(key, statement(message), signature) {
			continue
		}
		for _, r := range roots {
			if c.Equal(r) || c.IsCA && c.CheckSignatureFrom(r) == nil {
				return true
			}
		}
	}
	return false
}

// Pin names a CA by the SHA-256 of its certificate, in hex.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Save writes ca.crt and ca.key into dir, which it makes if needed. It refuses to replace a CA: every edge would be
// locked out. The error then matches fs.ErrExist.
func (ca *CA) Save(dir string) error {
	for _, f := range []string{CACertFile, CAKeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return fmt.Errorf("save CA: %s is there already: use it, or choose another directory: %w", filepath.Join(dir, f), fs.ErrExist)
		}
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return fmt.Errorf("save CA: %w", err)
	}
	pair := Pair{Cert: ca.CertPEM(), Key: key}
	if err := pair.Save(filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile)); err != nil {
		return fmt.Errorf("save CA: %w", err)
	}
	return nil
}

// Cert returns the CA's certificate, which must not be changed.
func (ca *CA) Cert() *x509.Certificate { return ca.cert }

// CertPEM returns the CA's certificate in PEM.
func (ca *CA) CertPEM() []byte { return certPEM(ca.cert.Raw) }

// IssueServer makes a server certificate for the DNS names and IP addresses in hosts, at least one.
func (ca *CA) IssueServer(hosts []string, validity time.Duration) (Pair, error) {
	t := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if len(validation.IsDNS1123Subdomain(h)) == 0 {
			t.DNSNames = append(t.DNSNames, h)
		} else {
			return Pair{}, fmt.Errorf("issue server certificate: expected a DNS name or an IP address without port, found %q", h)
		}
	}
	if len(hosts) == 0 {
		return Pair{}, errors.New("issue server certificate: no name or address given: a client checks the one it dialled")
	}
	t.Subject.CommonName = hosts[0][:min(len(hosts[0]), 64)] // X.520's limit; clients read the names above
	return ca.issue(t, validity)
}

// SignNode certifies a node's public key: CN system:node:NAME, O system:nodes, client authentication, and nothing that
// the asker chose but the key. It counts as issued at the given time, not before now.
func (ca *CA) SignNode(name string, pub crypto.PublicKey, validity time.Duration, issued time.Time) ([]byte, error) {
	if err := checkNodeName(name); err != nil {
		return nil, fmt.Errorf("sign node certificate: %w", err)
	}
	if err := ca.expired(); err != nil {
		return nil, fmt.Errorf("sign node certificate: %w", err)
	}
	t := nodeTemplate(name)
	t.NotBefore = issued.Add(-backdate)
	der, err := ca.sign(t, pub, ca.end(issued.Add(validity)))
	if err != nil {
		return nil, fmt.Errorf("sign node certificate: %w", err)
	}
	return certPEM(der), nil
}

// Issued is when a certificate of this package was made.
func Issued(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

func nodeTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: nodePrefix + name, Organization: []string{nodeGroup}},
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (ca *CA) expired() error {
	if now := ca.now(); !now.Before(ca.cert.NotAfter) {
		return fmt.Errorf("the CA's certificate expired on %s and this machine's clock says %s: make a new CA, or set the clock",
			stamp(ca.cert.NotAfter), stamp(now))
	}
	return nil
}

// end is t, or the end of the CA's own time if that is earlier.
func (ca *CA) end(t time.Time) time.Time {
	if t.After(ca.cert.NotAfter) {
		return ca.cert.NotAfter
	}
	return t
}

// IssueNode makes the client certificate of an edge node: CN system:node:NAME, O system:nodes.
func (ca *CA) IssueNode(name string, validity time.Duration) (Pair, error) {
	if err := checkNodeName(name); err != nil {
		return Pair{}, fmt.Errorf("issue node certificate: %w", err)
	}
	return ca.issue(nodeTemplate(name), validity)
}

// IssueClient makes a client certificate for a person or program of these groups (organizations), such as an operator
// at the gateway. It names no node.
func (ca *CA) IssueClient(name string, groups []string, validity time.Duration) (Pair, error) {
	if name == "" || strings.HasPrefix(name, nodePrefix) {
		return Pair{}, fmt.Errorf("issue client certificate: expected a name that is not a node's, found %q", name)
	}
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, validity)
}

func (ca *CA) issue(t *x509.Certificate, validity time.Duration) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key: %w", err)
	}
	if err := ca.expired(); err != nil {
		return Pair{}, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	der, err := ca.sign(t, key.Public(), ca.end(ca.now().Add(validity)))
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode key: %w", err)
	}
	return Pair{Cert: certPEM(der), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}, nil
}

func (ca *CA) sign(t *x509.Certificate, pub crypto.PublicKey, notAfter time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1)) // positive, as RFC 5280 wants it
	if t.NotBefore.IsZero() {
		t.NotBefore = ca.now().Add(-backdate)
	}
	t.NotAfter = notAfter
	return x509.CreateCertificate(rand.Reader, t, ca.cert, pub, ca.key)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// stamp writes a time so that two can be compared at a glance.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
