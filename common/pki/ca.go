package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
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
		MaxPathLenZero:        true,
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

// Save writes ca.crt and ca.key into dir, which it makes if needed. It refuses to replace a CA: every edge would be
// locked out. The error then matches fs.ErrExist.
func (ca *CA) Save(dir string) error {
	for _, f := range []string{CACertFile, CAKeyFile} {
		if _, err := os.Lstat(filepath.Join(dir, f)); err == nil {
			return fmt.Errorf("save CA: %s is there already: use it, or choose another directory: %w", filepath.Join(dir, f), fs.ErrExist)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return fmt.Errorf("save CA: %w", err)
	}
	pair := Pair{Cert: ca.CertPEM(), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
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

// IssueNode makes the client certificate of an edge node: CN system:node:NAME, O system:nodes.
func (ca *CA) IssueNode(name string, validity time.Duration) (Pair, error) {
	if err := checkNodeName(name); err != nil {
		return Pair{}, fmt.Errorf("issue node certificate: %w", err)
	}
	return ca.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: nodePrefix + name, Organization: []string{nodeGroup}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, validity)
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
	if now := ca.now(); !now.Before(ca.cert.NotAfter) {
		return Pair{}, fmt.Errorf("the CA's certificate expired on %s and this machine's clock says %s: make a new CA, or set the clock",
			stamp(ca.cert.NotAfter), stamp(now))
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.BasicConstraintsValid = true
	end := ca.now().Add(validity)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	der, err := ca.sign(t, key.Public(), end)
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
	t.NotBefore, t.NotAfter = ca.now().Add(-backdate), notAfter
	return x509.CreateCertificate(rand.Reader, t, ca.cert, pub, ca.key)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// stamp writes a time so that two can be compared at a glance.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
