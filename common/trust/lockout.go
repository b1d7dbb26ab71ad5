package trust

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/tether-edge/tether/common/pki"
)

// A Standing says what the CA of a node's latest certificate is worth.
type Standing int

// The standings.
const (
	// Present: the certificate is of the CA that signs now.
	Present Standing = iota
	// Former: it is of a CA that was replaced and is still trusted.
	Former
	// Retired: it is of a CA that is trusted no more. The node must join again.
	Retired
)

// Standing says what the CA of a node's latest certificate is worth.
func (a *Authority) Standing(id Identity) Standing {
	switch issuer := a.issuer(id); {
	case issuer == a.CA.Cert():
		return Present
	case issuer != nil:
		return Former
	}
	return Retired
}

// issuer is the CA of a node's latest certificate; nil if it is trusted no more. A record that does not name it, which
// versions before wrote, is of the newest CA that was there then.
func (a *Authority) issuer(id Identity) *x509.Certificate {
	for _, f := range append([]former{{a.CA.Cert(), a.CA}}, a.formers...) {
		if id.CA == pki.Pin(f.cert) || id.CA == "" && !id.Issued.Before(pki.Issued(f.cert)) {
			return f.cert
		}
	}
	return nil
}

// lockedOut names the nodes whose latest certificate is of one of the former CAs that ends matches. A node whose
// certificate was revoked or can no longer be renewed is locked out already, and so is one of a retired CA.
func (s *Store) lockedOut(ctx context.Context, a *Authority, ends func(*former) bool) ([]string, error) {
	if len(a.formers) == 0 {
		return nil, nil
	}
	ids, err := s.Identities(ctx)
	if err != nil {
		return nil, err
	}
	revoked, err := s.Revocations(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, id := range ids {
		if !s.now().Before(id.Renewable) || id.Issued.Before(revoked[id.Node]) || !id.Valid(id.Issued) {
			continue
		}
		issuer := a.issuer(id)
		for _, f := range a.formers {
			if issuer == f.cert && ends(&f) {
				out = append(out, id.Node)
			}
		}
	}
	return out, nil
}

// A LockoutError refuses what would lock nodes out.
type LockoutError struct {
	// Nodes are their names, in order.
	Nodes []string
}

func (e *LockoutError) Error() string {
	return fmt.Sprintf("expected every node to have renewed its certificate since the edge CA was last replaced, found %d that have not (%s): "+
		"this would lock them out. Nodes renew at two thirds of their certificates' life: wait until 'keadm certs list' shows none of a former CA, "+
		"and revoke or reset those that never come back. With --force it is done now, and each of them must join again with a token",
		len(e.Nodes), NameSome(e.Nodes))
}

// maxNamed bounds the nodes that are named.
const maxNamed = 10

// NameSome names up to ten nodes, and says how many more there are.
func NameSome(nodes []string) string {
	if len(nodes) <= maxNamed {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(nodes[:maxNamed], ", "), len(nodes)-maxNamed)
}
