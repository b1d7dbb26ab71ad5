package trust

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const tokenPrefix = "tether-join-token-"

// Keys of a token's Secret.
const (
	keyHash    = "hash"    // SHA-256 of the secret, hex
	keyNodes   = "nodes"   // pattern
	keyUses    = "uses"    // how many there were
	keyMaxUses = "maxUses" // 0: any number
	keyExpires = "expires"
	keyUsers   = "users" // node and key pin of each use, a line each
	keyUsed    = "used"  // when it was last used
)

// A Token lets edges join. The secret is known to whoever was given it and to nobody else.
type Token struct {
	ID string `json:"id"`
	// Nodes is the name, or a pattern with * and ?, of the nodes that it is for.
	Nodes string `json:"nodes"`
	// Uses is how often it was used, MaxUses how often it may be; 0 for any number.
	Uses    int       `json:"uses"`
	MaxUses int       `json:"maxUses"`
	Expires time.Time `json:"expires"`
}

// Exact reports whether the token is for one node alone.
func (t *Token) Exact() bool { return !strings.ContainsAny(t.Nodes, `*?[\`) }

// Bearer is a token in the form in which people carry it: the pin of the CA that the edge must find, the id, the secret.
type Bearer struct{ Pin, ID, Secret string }

// String writes PIN.ID.SECRET.
func (b Bearer) String() string { return b.Pin + "." + b.ID + "." + b.Secret }

// ParseBearer reads what String wrote.
func ParseBearer(s string) (Bearer, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 3 || len(parts[0]) != 64 || !isHex(parts[0]) || !isID(parts[1]) || len(parts[2]) < 16 || len(parts[2]) > 64 {
		return Bearer{}, errors.New("join token: expected CA-HASH.ID.SECRET as 'keadm gettoken' prints it (64 hexadecimal digits, a dot, 8 letters and digits, a dot, the secret)")
	}
	return Bearer{Pin: parts[0], ID: parts[1], Secret: parts[2]}, nil
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

const idLength = 8

func isID(s string) bool {
	return len(s) == idLength && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// What is wrong with a token.
var (
	// ErrToken: there is no such token, or the secret is another.
	ErrToken = errors.New("the join token is not known")
	// ErrTokenExpired: its time is over.
	ErrTokenExpired = errors.New("the join token has expired")
	// ErrTokenUsed: it was used as often as it may be.
	ErrTokenUsed = errors.New("the join token is used up")
	// ErrTokenNode: it is for other nodes.
	ErrTokenNode = errors.New("the join token is for other nodes")
)

// TokenRequest says what a token is to allow.
type TokenRequest struct {
	Nodes   string // a node's name, or a pattern with * and ?
	MaxUses int    // 0 for any number
	Life    time.Duration
}

// NewToken makes a token, and removes those that have long been worth nothing. The Bearer is the only place where its
// secret is.
func (s *Store) NewToken(ctx context.Context, r TokenRequest) (Bearer, error) {
	if _, err := path.Match(r.Nodes, "a"); err != nil || r.Nodes == "" || strings.Contains(r.Nodes, "/") {
		return Bearer{}, fmt.Errorf("join token: expected a node's name or a pattern with * and ?, found %q", r.Nodes)
	}
	if r.MaxUses < 0 || r.Life <= 0 || r.Life > 366*24*time.Hour {
		return Bearer{}, fmt.Errorf("join token: expected uses of 0 or more and a life of up to a year, found %d and %s", r.MaxUses, r.Life)
	}
	a, err := s.CA(ctx)
	if err != nil {
		return Bearer{}, err
	}
	s.pruneTokens(ctx)
	b := Bearer{Pin: a.Pin(), ID: random(5), Secret: random(20)}
	_, err = s.create(ctx, tokenPrefix+b.ID, kindToken, map[string][]byte{
		keyHash: []byte(hash(b.Secret)), keyNodes: []byte(r.Nodes), keyUses: []byte("0"),
		keyMaxUses: []byte(strconv.Itoa(r.MaxUses)), keyExpires: formatTime(s.now().Add(r.Life)),
	})
	if err != nil {
		return Bearer{}, fmt.Errorf("make join token: %w", err)
	}
	return b, nil
}

// tokenRest is how long a token that is worth nothing is kept, so that whoever tries it hears why.
const tokenRest = 24 * time.Hour

// pruneTokens removes the tokens that expired, or were used up, a day ago. What fails is left to the next one that is made.
func (s *Store) pruneTokens(ctx context.Context) {
	secrets, err := s.list(ctx, kindToken)
	if err != nil {
		return
	}
	for _, x := range secrets {
		t, before := parseToken(&x), s.now().Add(-tokenRest)
		used := parseTime(x.Data[keyUsed])
		if t.Expires.Before(before) || t.MaxUses > 0 && t.Uses >= t.MaxUses && !used.IsZero() && used.Before(before) {
			_ = s.RevokeToken(ctx, t.ID)
		}
	}
}

// random returns n random bytes as lower case base32: 5 make 8 letters.
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Tokens lists the tokens, those whose time was over lately included, by id.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	secrets, err := s.list(ctx, kindToken)
	if err != nil {
		return nil, fmt.Errorf("list join tokens: %w", err)
	}
	var out []Token
	for _, x := range secrets {
		out = append(out, parseToken(&x))
	}
	slices.SortFunc(out, func(a, b Token) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// RevokeToken removes a token. Nodes that joined with it stay. The error matches ErrToken if there is none.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	err := s.client.CoreV1().Secrets(Namespace).Delete(ctx, tokenPrefix+id, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %s", ErrToken, id)
	}
	if err != nil {
		return fmt.Errorf("revoke join token %s: %w", id, err)
	}
	return nil
}

// CheckToken returns the token if the secret is right and it is for this node and not expired. It counts no use.
func (s *Store) CheckToken(ctx context.Context, id, secret, node string) (*Token, error) {
	if !isID(id) {
		return nil, ErrToken
	}
	x, err := s.get(ctx, tokenPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, ErrToken
	}
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	if x.Labels[Label] != kindToken || subtle.ConstantTimeCompare(x.Data[keyHash], []byte(hash(secret))) != 1 {
		return nil, ErrToken
	}
	t := parseToken(x)
	if !s.now().Before(t.Expires) {
		return nil, fmt.Errorf("%w on %s", ErrTokenExpired, t.Expires.UTC().Format(time.RFC3339))
	}
	if ok, err := path.Match(t.Nodes, node); err != nil || !ok {
		return nil, fmt.Errorf("%w: it is for %q, the node is %q", ErrTokenNode, t.Nodes, node)
	}
	return &t, nil
}

// UseToken counts a use by a node with a key. The same node with the same key, which did not hear the answer, is not
// counted again. The error matches ErrTokenUsed where all uses are taken.
func (s *Store) UseToken(ctx context.Context, id, node, keyPin string) error {
	user := node + " " + keyPin
	err := s.change(ctx, tokenPrefix+id, kindToken, func(data map[string][]byte) error {
		if len(data) == 0 {
			return ErrToken // revoked meanwhile
		}
		users := strings.Split(string(data[keyUsers]), "\n")
		if slices.Contains(users, user) {
			return nil
		}
		uses, _ := strconv.Atoi(string(data[keyUses]))
		most, _ := strconv.Atoi(string(data[keyMaxUses]))
		if most > 0 && uses >= most {
			return fmt.Errorf("%w: %d of %d", ErrTokenUsed, uses, most)
		}
		data[keyUses], data[keyUsed] = []byte(strconv.Itoa(uses+1)), formatTime(s.now())
		// The last hundred are enough for whoever asks again at once.
		users = append(users, user)
		data[keyUsers] = []byte(strings.Join(users[max(0, len(users)-100):], "\n"))
		return nil
	})
	if err != nil {
		return fmt.Errorf("use join token %s: %w", id, err)
	}
	return nil
}

func parseToken(x *corev1.Secret) Token {
	uses, _ := strconv.Atoi(string(x.Data[keyUses]))
	most, err := strconv.Atoi(string(x.Data[keyMaxUses]))
	if err != nil {
		most = 1
	}
	return Token{ID: strings.TrimPrefix(x.Name, tokenPrefix), Nodes: string(x.Data[keyNodes]), Uses: uses, MaxUses: most, Expires: parseTime(x.Data[keyExpires])}
}
