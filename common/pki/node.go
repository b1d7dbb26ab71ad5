package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ErrNotNode is wrapped by NodeName's error for a certificate that is no node's.
var ErrNotNode = errors.New("not a node's certificate")

// NodeName returns the name of the node that cert identifies. cert must already be verified against the edge CA: this
// reads it and proves nothing. It is the only place where a node's name is taken from a certificate.
func NodeName(cert *x509.Certificate) (string, error) {
	name, ok := strings.CutPrefix(cert.Subject.CommonName, nodePrefix)
	if !ok {
		return "", fmt.Errorf("%w: expected common name %sNAME, found %q", ErrNotNode, nodePrefix, cert.Subject.CommonName)
	}
	if !slices.Contains(cert.Subject.Organization, nodeGroup) {
		return "", fmt.Errorf("%w: expected organization %s, found %q", ErrNotNode, nodeGroup, cert.Subject.Organization)
	}
	if err := checkNodeName(name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotNode, err)
	}
	return name, nil
}

func checkNodeName(name string) error {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return fmt.Errorf("node name: expected lower case letters, digits, - and ., at most 253, found %q", name)
	}
	return nil
}

// NewNodeRequest makes a certificate signing request (PEM) for a node's key.
func NewNodeRequest(name string, key crypto.Signer) ([]byte, error) {
	if err := checkNodeName(name); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: nodePrefix + name, Organization: []string{nodeGroup}},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ErrRequest is wrapped by NodeRequest's error.
var ErrRequest = errors.New("certificate request refused")

// NodeRequest reads a certificate signing request and returns the node that it is for and its key. One that asks for
// anything but a node's identity (another name, organization, alternative names, a weak key) is refused, though nothing
// of it but the key would ever be taken over.
func NodeRequest(request []byte) (name string, key crypto.PublicKey, err error) {
	block, rest := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return "", nil, fmt.Errorf("%w: expected one PEM block CERTIFICATE REQUEST", ErrRequest)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := r.CheckSignature(); err != nil {
		return "", nil, fmt.Errorf("%w: the signature does not prove possession of the key: %w", ErrRequest, err)
	}
	name, err = NodeName(&x509.Certificate{Subject: r.Subject})
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if len(r.Subject.Organization) != 1 || len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
		return "", nil, fmt.Errorf("%w: expected organization %s alone and no alternative names, found organizations %q and %d names",
			ErrRequest, nodeGroup, r.Subject.Organization, len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs))
	}
	switch k := r.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return "", nil, fmt.Errorf("%w: expected an elliptic key of 256 bits or more, found %d", ErrRequest, k.Curve.Params().BitSize)
		}
	case ed25519.PublicKey:
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 8192 {
			return "", nil, fmt.Errorf("%w: expected an RSA key of 2048 to 8192 bits, found %d", ErrRequest, k.N.BitLen())
		}
	default:
		return "", nil, fmt.Errorf("%w: expected an ECDSA, Ed25519 or RSA key, found %T", ErrRequest, r.PublicKey)
	}
	return name, r.PublicKey, nil
}

// KeyPin names a public key by the SHA-256 of its SubjectPublicKeyInfo, in hex.
func KeyPin(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
