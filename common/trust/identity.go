package trust

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/pki"
)

const identityPrefix = "tether-identity-"

// Keys of an identity's Secret.
const (
	keyNode    = "node"
	keyMachine = "machine"
	keyPublic  = "key"
	keyIssued  = "issued"
	keyUntil   = "until"
	keyIssuer  = "ca"
	// keyRenewable is not in records that versions before wrote.
	keyRenewable = "renewableUntil"
	// keyRevoked is not in records of nodes that were never revoked.
	keyRevoked = "revoked"
)

// defaultGrace is what a record that does not say how long its certificate can be renewed is taken to mean: the default of
// CloudCore's configuration.
const defaultGrace = 90 * 24 * time.Hour

// An Identity is the record of a node's certificates.
type Identity struct {
	Node string `json:"node"`
	// Machine names the machine that joined, by a hash.
	Machine string `json:"machine"`
	// Key is the pin of its public key.
	Key string `json:"key"`
	// Issued and Until are of its latest certificate.
	Issued time.Time `json:"issued"`
	Until  time.Time `json:"until"`
	// CA is the pin of the CA that signed it; empty in records that versions before wrote.
	CA string `json:"ca,omitempty"`
	// Renewable is when the last of all its certificates can no longer be renewed. After that the node must join again.
	Renewable time.Time `json:"renewableUntil"`
	// Revoked is the time before which its certificates are worth nothing, as in Revocations; zero if they never were
	// revoked. It stays for as long as the record: a revocation is dropped once what it revokes can no longer be renewed, and
	// a configuration that gives more time for that later must not bring it back.
	Revoked time.Time `json:"revokedBefore,omitzero"`
}

// Valid reports whether a certificate of the node that was issued at a time is not revoked, as far as the record knows.
func (id *Identity) Valid(issued time.Time) bool { return !issued.Before(id.Revoked) }

// identityName is the Secret of a node. A Secret's name has the length of a node's, so a long one is hashed.
func identityName(node string) string {
	if len(identityPrefix)+len(node) <= 253 {
		return identityPrefix + node
	}
	sum := sha256.Sum256([]byte(node))
	return identityPrefix + hex.EncodeToString(sum[:])
}

// Identity returns a node's record; nil if it never joined.
func (s *Store) Identity(ctx context.Context, node string) (*Identity, error) {
	x, err := s.get(ctx, identityName(node))
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity of node %s: %w", node, err)
	}
	return parseIdentity(x), nil
}

// Identities lists all records by node.
func (s *Store) Identities(ctx context.Context) ([]Identity, error) {
	secrets, err := s.list(ctx, kindIdentity)
	if err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	var out []Identity
	for _, x := range secrets {
		out = append(out, *parseIdentity(&x))
	}
	slices.SortFunc(out, func(a, b Identity) int { return strings.Compare(a.Node, b.Node) })
	return out, nil
}

func parseIdentity(x *corev1.Secret) *Identity {
	id := &Identity{Node: string(x.Data[keyNode]), Machine: string(x.Data[keyMachine]), Key: string(x.Data[keyPublic]), CA: string(x.Data[keyIssuer]),
		Issued: parseTime(x.Data[keyIssued]), Until: parseTime(x.Data[keyUntil]), Renewable: parseTime(x.Data[keyRenewable]), Revoked: parseTime(x.Data[keyRevoked])}
	if id.Renewable.IsZero() {
		id.Renewable = id.Until.Add(defaultGrace)
	}
	return id
}

// Record writes a node's record after check accepted the one that is there (nil if none), and keeps what that says of
// revocations. Two that join as one node at once are judged one after the other.
func (s *Store) Record(ctx context.Context, id Identity, check func(held *Identity) error) error {
	err := s.change(ctx, identityName(id.Node), kindIdentity, func(data map[string][]byte) error {
		var held *Identity
		if len(data) > 0 {
			held = parseIdentity(&corev1.Secret{Data: data})
		}
		if err := check(held); err != nil {
			return err
		}
		data[keyNode], data[keyMachine], data[keyPublic] = []byte(id.Node), []byte(id.Machine), []byte(id.Key)
		data[keyIssued], data[keyUntil], data[keyIssuer] = formatTime(id.Issued), formatTime(id.Until), []byte(id.CA)
		renewable := id.Renewable
		if held != nil && held.Renewable.After(renewable) {
			renewable = held.Renewable // of an earlier certificate, made when the configuration gave them longer lives
		}
		data[keyRenewable] = formatTime(renewable)
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the identity of node %s: %w", id.Node, err)
	}
	return nil
}

// Forget removes a node's record: its name is free. Its certificates stay valid unless they are revoked.
func (s *Store) Forget(ctx context.Context, node string) error {
	err := s.client.CoreV1().Secrets(Namespace).Delete(ctx, identityName(node), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("forget node %s: %w", node, err)
	}
	return nil
}

// RevocationSecret holds, by node, the time before which its certificates are worth nothing.
const RevocationSecret = "tether-revocations"

// keyKeep, in that Secret, is how long a certificate may be used after it was issued, its life and the grace for its renewal:
// the longest of those revoked so far. It is no node's name, and never becomes less.
const keyKeep = "_keep"

// Revocations are, by node, the time before which its certificates are worth nothing.
type Revocations map[string]time.Time

// Revoked reports whether a node's certificate is revoked. A nil map revokes nothing.
func (r Revocations) Revoked(node string, cert *x509.Certificate) bool {
	at, ok := r[node]
	return ok && pki.Issued(cert).Before(at)
}

// ParseRevocations reads the Secret; nil gives none.
func ParseRevocations(x *corev1.Secret) Revocations {
	if x == nil {
		return nil
	}
	r := make(Revocations, len(x.Data))
	for node, at := range x.Data {
		if node != keyKeep {
			r[node] = parseTime(at)
		}
	}
	return r
}

// Revocations reads them from the cluster.
func (s *Store) Revocations(ctx context.Context) (Revocations, error) {
	x, err := s.get(ctx, RevocationSecret)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return ParseRevocations(x), nil
}

// Revoke makes every certificate that the node has had so far worthless, and returns the time from which new ones
// count: the next whole second. Revocations of certificates that are worthless by their age are dropped.
func (s *Store) Revoke(ctx context.Context, node string) (time.Time, error) {
	at := s.now().Truncate(time.Second).Add(time.Second)
	id, err := s.Identity(ctx, node)
	if err == nil && id != nil {
		err = s.revokeRecord(ctx, node, at)
	}
	if err != nil {
		return at, err
	}
	err = s.change(ctx, RevocationSecret, kindRevocations, func(data map[string][]byte) error {
		keep, _ := time.ParseDuration(string(data[keyKeep])) // there is none at first
		if id != nil {
			keep = max(keep, id.Renewable.Sub(id.Issued))
		}
		if keep > 0 {
			data[keyKeep] = []byte(keep.String())
			prune(data, s.now().Add(-keep))
		}
		data[node] = formatTime(at)
		return nil
	})
	if err != nil {
		return at, fmt.Errorf("revoke the certificates of node %s: %w", node, err)
	}
	return at, nil
}

// errNoRecord ends a change of a record that is gone.
var errNoRecord = errors.New("no record")

func (s *Store) revokeRecord(ctx context.Context, node string, at time.Time) error {
	err := s.change(ctx, identityName(node), kindIdentity, func(data map[string][]byte) error {
		if len(data) == 0 {
			return errNoRecord
		}
		data[keyRevoked] = formatTime(at)
		return nil
	})
	if err != nil && !errors.Is(err, errNoRecord) {
		return fmt.Errorf("revoke the certificates of node %s: %w", node, err)
	}
	return nil
}

// prune drops the revocations made before a time.
func prune(data map[string][]byte, before time.Time) {
	for node, at := range data {
		if node != keyKeep && parseTime(at).Before(before) {
			delete(data, node)
		}
	}
}
