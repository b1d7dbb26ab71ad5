// Package join is how an edge gets and keeps its identity: the requests to a CloudCore's join port and their client.
//
// It promises that a CA is believed only if it has the hash in the join token, that every other request is made over TLS
// 1.3 to a server that this CA vouches for, that a private key never leaves the machine, and that a refusal says what to
// do. keadm joins and leaves with it, edgecore renews with it; cloud/issuer answers.
package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

// Port is where CloudCore answers unless it is told another one.
const Port = 10002

// Paths of the requests. All bodies are JSON.
const (
	PathCA    = "/tether/v1/ca"    // GET, from anybody: the CA certificates in PEM, the present one first
	PathJoin  = "/tether/v1/join"  // POST Request, with a token in it: Response
	PathRenew = "/tether/v1/renew" // POST RenewRequest, with the node's certificate: Response
	PathNode  = "/tether/v1/node"  // GET, with the node's certificate: State
	PathTime  = "/tether/v1/time"  // GET ?nonce=, from anybody: SignedTime
	PathLeave = "/tether/v1/leave" // POST, with the node's certificate: no content
)

// MaxBody bounds a request's and an answer's body, in bytes.
const MaxBody = 64 << 10

// Request asks for a node's first certificate.
type Request struct {
	// TokenID and TokenSecret are of the join token.
	TokenID     string `json:"tokenID"`
	TokenSecret string `json:"tokenSecret"`
	Node        string `json:"node"`
	// CSR is a certificate signing request for system:node:NODE, PEM.
	CSR string `json:"csr"`
	// Machine names the machine for ever, by a hash.
	Machine string `json:"machine"`
	// Replace takes the name over from another machine. The token must be for this name alone.
	Replace bool `json:"replace,omitempty"`
}

// RenewRequest asks for the next certificate, with the present or a lately expired one.
type RenewRequest struct {
	CSR string `json:"csr"`
}

// Response is a certificate and what goes with it.
type Response struct {
	// Certificate is the node's, PEM; CA every authority to trust, PEM.
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	// Servers are the host:port of the CloudCores, for WebSocket.
	Servers []string `json:"servers"`
	// QUICPort is their UDP port for QUIC, 0 if they have none.
	QUICPort int `json:"quicPort,omitempty"`
}

// State is how the cloud sees a node.
type State struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason"`
}

// SignedTime is what time it is, signed by the edge CA together with the asker's nonce, so that none can be kept and shown
// later.
type SignedTime struct {
	UnixMS    int64  `json:"unixMS"`
	Signature []byte `json:"signature"`
	// Chain is the CA's certificate and what the one before it says of it, PEM.
	Chain string `json:"chain"`
}

// TimeMessage is what is signed of a time.
func TimeMessage(nonce string, unixMS int64) []byte {
	return fmt.Appendf(nil, "time\n%s\n%d\n", nonce, unixMS)
}

// MaxNonce bounds a nonce, in bytes.
const MaxNonce = 64

// A Refusal is an answer that says no.
type Refusal struct {
	Status int `json:"-"`
	// Reason is one word for programs, Message says it to people, with the remedy.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// RetryAfter is when to ask again, for status 429 and 503.
	RetryAfter time.Duration `json:"-"`
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("CloudCore refused (%s): %s", r.Reason, r.Message)
}

// Client talks to one CloudCore's join port.
type Client struct {
	// Server is the host:port.
	Server string
	// Roots vouch for the server; nil until the CA was fetched.
	Roots pki.Roots
	// Identity is the node's; nil before it has one.
	Identity pki.Presenter
	Now      pki.Clock
	// Proxy is what requests go through; nil means what the environment says.
	Proxy func(*http.Request) (*url.URL, error)
}

// timeout bounds one request.
const timeout = 20 * time.Second

func (c *Client) http(config *tls.Config) *http.Client {
	proxy := c.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		TLSClientConfig: config, DisableKeepAlives: true, Proxy: proxy, MaxResponseHeaderBytes: 16 << 10}}
}

// CA fetches the authorities and returns the pinned one, in PEM. What else the server sends proves nothing: anybody may
// put the pinned certificate, which is public, beside his own.
func (c *Client) CA(ctx context.Context, pin string) ([]byte, error) {
	// The hash is what proves them.
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}
	b, err := c.do(ctx, c.http(config), http.MethodGet, PathCA, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch the CA: %w", err)
	}
	certs, err := pki.ParseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("fetch the CA: %w", err)
	}
	for _, cert := range certs {
		if pki.Pin(cert) == pin {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
		}
	}
	return nil, fmt.Errorf("%w: the token expects a CA with SHA-256 %s, %s has %s: another CloudCore answers there, somebody is in between, "+
		"or the token is of a CA that was replaced: 'keadm gettoken' beside the cluster prints a present one", ErrPin, pin, c.Server, pki.Pin(certs[0]))
}

// ErrPin: the server's CA is not the one in the token.
var ErrPin = errors.New("the server's CA is not the one in the join token")

// ErrTime: a time was told that nobody trusted has signed.
var ErrTime = errors.New("the time is not signed by a CA that this edge trusts")

// Time asks what time it is. The answer counts if one of roots, or a CA that one of them vouches for, signed it with the
// nonce; no certificate's dates are judged, since it is the time that would judge them.
func (c *Client) Time(ctx context.Context, nonce string, roots []*x509.Certificate) (time.Time, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // the signature is what proves it
	b, err := c.do(ctx, c.http(config), http.MethodGet, PathTime+"?nonce="+url.QueryEscape(nonce), nil)
	if err != nil {
		return time.Time{}, err
	}
	t, err := decode[SignedTime](b)
	if err != nil {
		return time.Time{}, err
	}
	chain, err := pki.ParseCertificates([]byte(t.Chain))
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", ErrTime, err)
	}
	if !pki.Vouched(TimeMessage(nonce, t.UnixMS), t.Signature, chain, roots) {
		return time.Time{}, fmt.Errorf("%w (%s)", ErrTime, c.Server)
	}
	return time.UnixMilli(t.UnixMS), nil
}

// Join asks for a node's first certificate.
func (c *Client) Join(ctx context.Context, r Request) (*Response, error) {
	return post[Response](ctx, c, PathJoin, r)
}

// Renew asks for the next certificate. The present one is shown, even if it has expired.
func (c *Client) Renew(ctx context.Context, csr []byte) (*Response, error) {
	return post[Response](ctx, c, PathRenew, RenewRequest{CSR: string(csr)})
}

// Leave gives the node's name back: the Node is removed and the certificate revoked.
func (c *Client) Leave(ctx context.Context) error {
	_, err := c.secure(ctx, http.MethodPost, PathLeave, nil)
	return err
}

// Node asks how the cloud sees this node.
func (c *Client) Node(ctx context.Context) (*State, error) {
	b, err := c.secure(ctx, http.MethodGet, PathNode, nil)
	if err != nil {
		return nil, err
	}
	return decode[State](b)
}

func post[T any](ctx context.Context, c *Client, path string, in any) (*T, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	b, err := c.secure(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	return decode[T](b)
}

func decode[T any](b []byte) (*T, error) {
	out := new(T)
	if err := json.Unmarshal(b, out); err != nil {
		return nil, fmt.Errorf("read CloudCore's answer: %w", err)
	}
	return out, nil
}

func (c *Client) secure(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	config := pki.ClientTLS(c.Identity, c.Roots, pki.ServerName, c.Now)
	if c.Identity == nil {
		config.GetClientCertificate = nil
	}
	b, err := c.do(ctx, c.http(config), method, path, body)
	return b, pki.Explain(err, c.Now)
}

func (c *Client) do(ctx context.Context, client *http.Client, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.Server+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.Server, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.Server, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.Server, err)
	}
	if len(b) > MaxBody {
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", c.Server, MaxBody)
	}
	if resp.StatusCode < 300 {
		return b, nil
	}
	r := &Refusal{Status: resp.StatusCode}
	if err := json.Unmarshal(b, r); err != nil || r.Message == "" {
		return nil, fmt.Errorf("%s answers %s: expected a CloudCore's join port (%d unless --certport says another)", c.Server, resp.Status, Port)
	}
	if s, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil && s > 0 && s < time.Hour {
		r.RetryAfter = s
	}
	return nil, r
}

// StaticRoots are authorities in memory.
type StaticRoots struct{ pool *x509.CertPool }

// NewStaticRoots reads authorities in PEM.
func NewStaticRoots(bundle []byte) (*StaticRoots, error) {
	certs, err := pki.ParseCertificates(bundle)
	if err != nil {
		return nil, err
	}
	r := &StaticRoots{pool: x509.NewCertPool()}
	for _, cert := range certs {
		r.pool.AddCert(cert)
	}
	return r, nil
}

// Pool returns them.
func (r *StaticRoots) Pool() *x509.CertPool { return r.pool }
