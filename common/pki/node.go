package pki

import (
	"crypto/x509"
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
