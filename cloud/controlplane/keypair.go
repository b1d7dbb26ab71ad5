package controlplane

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"time"
)

// keyPair is a certificate with its private key.
type keyPair struct {
	cert            *x509.Certificate
	key             crypto.Signer
	certPEM, keyPEM []byte
}

// loadKeyPair reads both files and checks that they belong together. The error
// wraps os.ErrNotExist if either is missing.
func loadKeyPair(certFile, keyFile string) (*keyPair, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate in PEM", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certFile, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", keyFile, certFile)
	}
	return &keyPair{cert: cert, key: key, certPEM: certPEM, keyPEM: keyPEM}, nil
}

// staleness says why a certificate must be issued again, or "".
func staleness(cert *x509.Certificate, s *certSpec, ca *x509.Certificate, now time.Time) string {
	switch {
	case cert.CheckSignatureFrom(ca) != nil:
		return "its authority changed"
	case now.Before(cert.NotBefore):
		return "it is not valid yet by this machine's clock"
	case now.Add(renewBefore).After(cert.NotAfter) && cert.NotAfter.Before(ca.NotAfter):
		return "it expires on " + cert.NotAfter.Format(time.DateOnly)
	case cert.Subject.CommonName != s.user || !slices.Equal(cert.Subject.Organization, s.organization()):
		return "its user changed"
	case !slices.Equal(cert.ExtKeyUsage, s.usages()):
		return "its usages changed"
	case !sameSet(cert.DNSNames, s.dns) || !sameSet(ipStrings(cert.IPAddresses), ipStrings(s.ips)):
		return "its names or addresses changed"
	}
	return ""
}

func (s *certSpec) organization() []string {
	if s.group == "" {
		return nil
	}
	return []string{s.group}
}

// issue makes a key and a certificate for it as s says.
func (ca *keyPair) issue(s *certSpec, now time.Time) (*keyPair, error) {
	notAfter := now.Add(certLife)
	if notAfter.After(ca.cert.NotAfter) {
		notAfter = ca.cert.NotAfter
	}
	return newKeyPair(&x509.Certificate{
		Subject:     pkix.Name{CommonName: s.user, Organization: s.organization()},
		NotBefore:   now.Add(-backdate),
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: s.usages(),
		DNSNames:    s.dns,
		IPAddresses: s.ips,

		BasicConstraintsValid: true,
	}, ca)
}

func newAuthority(subject string, now time.Time) (*keyPair, error) {
	return newKeyPair(&x509.Certificate{
		Subject:   pkix.Name{CommonName: subject},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(caLife),
		KeyUsage:  x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:      true,

		BasicConstraintsValid: true,
	}, nil)
}

// newKeyPair signs template with ca, or with its own key if ca is nil.
func newKeyPair(template *x509.Certificate, ca *keyPair) (*keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	parent, signer := template, crypto.Signer(key)
	if ca != nil {
		parent, signer = ca.cert, ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &keyPair{
		cert:    cert,
		key:     key,
		certPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		keyPEM:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// newRSAKey: service account tokens are verified by third parties too, and RS256 is what all of them know.
func newRSAKey() (crypto.Signer, []byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
}

func parseKey(body []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(bytes.TrimSpace(body))
	if block == nil {
		return nil, errors.New("holds no key in PEM")
	}
	switch block.Type {
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("holds %q, expected an EC or RSA private key", block.Type)
}

func publicPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func ipStrings(ips []net.IP) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

func sameSet(a, b []string) bool {
	normal := func(in []string) []string {
		out := slices.Clone(in)
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(normal(a), normal(b))
}
