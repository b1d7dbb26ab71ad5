// Package issuer is CloudCore's join port: it turns join tokens into node certificates and renews them.
//
// It promises that a certificate is for the node that the token or the present certificate is for and can do nothing
// else (I6), that a use of a token is counted before a signature is made, that a live node's name is not given to
// another machine unless a token for that very name says so, that an expired certificate buys only its own successor,
// within a grace, from who holds its key, and that every request costs a stranger more than it costs the hub: sizes, times
// and rates are bounded. cloud/cloudcore wires it.
package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/trust"
)

// Config parametrizes an Issuer.
type Config struct {
	// Validity is the life of a node's certificate, Grace how long after it the certificate can still be renewed.
	Validity, Grace time.Duration
	// Servers are the host:port of the CloudCores, told to edges.
	Servers []string
	// QUICPort is the UDP port of the same CloudCores, 0 if they have none; told to edges too.
	QUICPort int
	// MaxConnections bounds those served at one time, three quarters of it those of one address; more wait.
	MaxConnections int
}

// Nodes are what the issuer tells of and asks about nodes.
type Nodes interface {
	// Ready reports whether the cluster holds the node for Ready, and why not.
	Ready(node string) (ready bool, reason string)
	// Session reports whether the node has a session whose edge answers, and the pin of the key (pki.KeyPin) that opened it:
	// empty where another CloudCore holds it. It may take some seconds.
	Session(ctx context.Context, node string) (key string, live bool, err error)
	// Remove removes a node for good.
	Remove(ctx context.Context, node string) error
	// Joined and Refused record an Event about a node. They do not block.
	Joined(node, message string)
	Refused(node, message string)
}

// Authority is the edge CA of the moment.
type Authority interface {
	Authority() *trust.Authority
	// Certificate is this CloudCore's own.
	Certificate() *tls.Certificate
	// Revoked reports whether a node's certificate is revoked.
	Revoked(node string, cert *x509.Certificate) bool
}

// Deps are what an Issuer works with.
type Deps struct {
	Listener net.Listener
	Trust    *trust.Store
	CA       Authority
	Nodes    Nodes
	Log      *slog.Logger
	Now      func() time.Time
	Registry prometheus.Registerer
}

// An Issuer serves the join port.
type Issuer struct {
	cfg    Config
	deps   Deps
	limits *limits
	served *prometheus.CounterVec
}

// New returns an Issuer that does not yet serve.
func New(cfg Config, deps Deps) *Issuer {
	i := &Issuer{cfg: cfg, deps: deps, limits: newLimits(deps.Now), served: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tether_cloudcore_join_requests_total", Help: "Requests to the join port, by path and reason of the answer (ok, or why not)."},
		[]string{"path", "reason"})}
	deps.Registry.MustRegister(i.served)
	return i
}

const (
	// requestTimeout bounds one request with all that the API server does for it.
	requestTimeout = 15 * time.Second
	// readTimeout bounds TLS, and then the request.
	readTimeout = 10 * time.Second
	// placeLife bounds a connection, whatever it does.
	placeLife = 2*readTimeout + requestTimeout
)

// Start serves until ctx is done.
func (i *Issuer) Start(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+join.PathCA, i.ca)
	mux.HandleFunc("GET "+join.PathTime, i.answer(join.PathTime, i.time))
	mux.HandleFunc("POST "+join.PathJoin, i.answer(join.PathJoin, i.join))
	mux.HandleFunc("POST "+join.PathRenew, i.answer(join.PathRenew, i.renew))
	mux.HandleFunc("GET "+join.PathNode, i.answer(join.PathNode, i.node))
	mux.HandleFunc("POST "+join.PathLeave, i.answer(join.PathLeave, i.leave))
	srv := &http.Server{
		Handler: mux, MaxHeaderBytes: 8 << 10, ReadTimeout: readTimeout, WriteTimeout: requestTimeout + 10*time.Second,
		ErrorLog: slog.NewLogLogger(i.deps.Log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Time: i.deps.Now,
			// An expired certificate must get this far to be renewed: peer judges it.
			ClientAuth:     tls.RequestClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.deps.CA.Certificate(), nil },
		},
	}
	// One request a connection: with more, who asks again and again would keep its place.
	srv.SetKeepAlivesEnabled(false)
	if err := transport.ServeHTTPS(ctx, srv, i.deps.Listener, i.cfg.MaxConnections, placeLife); err != nil {
		return fmt.Errorf("serve the join port: %w", err)
	}
	return nil
}

func (i *Issuer) ca(w http.ResponseWriter, _ *http.Request) {
	i.served.WithLabelValues(join.PathCA, "ok").Inc()
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(i.deps.CA.Authority().Bundle())
}

// answer bounds a request, and says its outcome to the asker, the metrics and the log.
func (i *Issuer) answer(path string, serve func(context.Context, *http.Request, []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		out, err := i.bounded(ctx, w, r, serve)
		var refusal *join.Refusal
		switch {
		case err == nil:
			i.served.WithLabelValues(path, "ok").Inc()
		case errors.As(err, &refusal):
			i.served.WithLabelValues(path, refusal.Reason).Inc()
			i.deps.Log.Warn("request refused", "path", path, "remote", r.RemoteAddr, "reason", refusal.Reason, "message", refusal.Message)
		default:
			i.served.WithLabelValues(path, "Internal").Inc()
			i.deps.Log.Error("request failed", "path", path, "remote", r.RemoteAddr, "error", err)
			// What the API server says is not a stranger's to know.
			refusal = refuse(http.StatusServiceUnavailable, "Unavailable", "CloudCore cannot reach the cluster now; ask again in a moment")
			refusal.RetryAfter = 2 * time.Second
		}
		w.Header().Set("Content-Type", "application/json")
		if refusal != nil {
			if refusal.RetryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(refusal.RetryAfter/time.Second)))
			}
			w.WriteHeader(refusal.Status)
			out = refusal
		}
		_ = json.NewEncoder(w).Encode(out)
	}
}

func (i *Issuer) bounded(ctx context.Context, w http.ResponseWriter, r *http.Request, serve func(context.Context, *http.Request, []byte) (any, error)) (any, error) {
	known := func() bool {
		_, _, err := i.peer(r, i.cfg.Grace)
		return err == nil
	}
	if wait := i.limits.take(r.RemoteAddr, known); wait > 0 {
		refusal := refuse(http.StatusTooManyRequests, "TooManyRequests", fmt.Sprintf("too many requests from this address, or from all together; ask again in %s", wait))
		refusal.RetryAfter = wait
		return nil, refusal
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, join.MaxBody))
	if err != nil {
		return nil, refuse(http.StatusRequestEntityTooLarge, "TooLarge", fmt.Sprintf("expected a body of at most %d bytes", join.MaxBody))
	}
	return serve(ctx, r, body)
}

func refuse(status int, reason, message string) *join.Refusal {
	return &join.Refusal{Status: status, Reason: reason, Message: message}
}

func parse(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return refuse(http.StatusBadRequest, "BadRequest", "expected a JSON object: "+err.Error())
	}
	return nil
}

// join turns a token into a certificate.
func (i *Issuer) join(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var q join.Request
	if err := parse(body, &q); err != nil {
		return nil, err
	}
	if len(q.Machine) != 64 || len(q.Node) > 253 {
		return nil, refuse(http.StatusBadRequest, "BadRequest", "expected a node's name and the machine's hash of 64 digits")
	}
	token, err := i.deps.Trust.CheckToken(ctx, q.TokenID, q.TokenSecret, q.Node)
	if err != nil {
		return nil, i.tokenRefusal(q.Node, err)
	}
	name, pub, err := pki.NodeRequest([]byte(q.CSR))
	if err != nil {
		i.deps.Nodes.Refused(q.Node, err.Error())
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", err.Error())
	}
	if name != q.Node {
		i.deps.Nodes.Refused(q.Node, fmt.Sprintf("a certificate request for node %q came with a token for %q", name, q.Node))
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", fmt.Sprintf("the certificate request is for node %q, the join for %q", name, q.Node))
	}
	key, err := pki.KeyPin(pub)
	if err != nil {
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", err.Error())
	}
	held, err := i.deps.Trust.Identity(ctx, q.Node)
	if err != nil {
		return nil, err
	}
	session, live, err := i.deps.Nodes.Session(ctx, q.Node)
	if err != nil {
		return nil, err
	}
	may := func(held *trust.Identity) error { return mayTake(q, token, held, live && others(session, key, held)) }
	if err := may(held); err != nil {
		i.deps.Nodes.Refused(q.Node, err.Error())
		return nil, err
	}
	if err := i.deps.Trust.UseToken(ctx, q.TokenID, q.Node, key); err != nil {
		return nil, i.tokenRefusal(q.Node, err)
	}
	issued := i.deps.Now()
	if q.Replace {
		// Whoever had the name loses it, also on a session that is open.
		if issued, err = i.deps.Trust.Revoke(ctx, q.Node); err != nil {
			return nil, err
		}
	} else if revoked, err := i.deps.Trust.Revocations(ctx); err != nil {
		return nil, err
	} else if at := revoked[q.Node]; issued.Before(at) {
		issued = at // the second in which the last certificates were revoked is not over
	}
	resp, err := i.sign(ctx, trust.Identity{Node: q.Node, Machine: q.Machine, Key: key}, []byte(q.CSR), issued, may)
	if err != nil {
		return nil, err
	}
	i.deps.Nodes.Joined(q.Node, fmt.Sprintf("The machine at %s joined as this node with token %s (use of a token for %q).", host(r.RemoteAddr), q.TokenID, token.Nodes))
	return resp, nil
}

func (i *Issuer) tokenRefusal(node string, err error) error {
	for _, c := range []struct {
		err    error
		reason string
		remedy string
	}{
		{trust.ErrToken, "UnknownToken", "see 'keadm token list' beside the cluster, or make one with 'keadm gettoken'"},
		{trust.ErrTokenExpired, "TokenExpired", "make one with 'keadm gettoken'"},
		{trust.ErrTokenUsed, "TokenUsedUp", "make one with 'keadm gettoken'; --uses allows more than one node"},
		{trust.ErrTokenNode, "TokenForOtherNode", "choose that name with --edgenode-name, or make a token for this one"},
	} {
		if errors.Is(err, c.err) {
			if !errors.Is(err, trust.ErrToken) {
				i.deps.Nodes.Refused(node, err.Error())
			}
			return refuse(http.StatusForbidden, c.reason, err.Error()+": "+c.remedy)
		}
	}
	return err
}

// others reports whether a live session is of another key. Where the session does not tell, the node's record does.
func others(session, key string, held *trust.Identity) bool {
	if session == "" && held != nil {
		session = held.Key
	}
	return session != key
}

// mayTake decides whether a machine may have a name that another one may have. taken: a live session of another key has it.
// A machine's hash alone proves nothing then, since machines made from one image share it; a machine that was set up anew
// with another key has no session.
func mayTake(q join.Request, token *trust.Token, held *trust.Identity, taken bool) error {
	what := "is another machine, which joined before"
	switch {
	case held == nil:
		return nil
	case held.Machine == q.Machine && !taken:
		return nil
	case taken:
		what = "is connected now with another key: another machine has the name, which may share this one's machine-id if both were made from one image. " +
			"(If this is that machine, set up anew, its old session is over in a minute at most: join again then.)"
	}
	switch {
	case !q.Replace:
		return refuse(http.StatusConflict, "NameTaken", fmt.Sprintf("node %q %s (certificate valid until %s): choose another name, remove that node, "+
			"or, if this machine takes its place, join with --replace and a token for this name alone (keadm gettoken --node %s)", q.Node, what, held.Until.UTC().Format(time.RFC3339), q.Node))
	case !token.Exact():
		return refuse(http.StatusForbidden, "TokenTooWide", fmt.Sprintf("--replace needs a token for node %q alone, this one is for %q: keadm gettoken --node %s", q.Node, token.Nodes, q.Node))
	}
	return nil
}

// renew gives a node its next certificate.
func (i *Issuer) renew(ctx context.Context, r *http.Request, body []byte) (any, error) {
	node, cert, err := i.peer(r, i.cfg.Grace)
	if err != nil {
		return nil, err
	}
	var q join.RenewRequest
	if err := parse(body, &q); err != nil {
		return nil, err
	}
	name, pub, err := pki.NodeRequest([]byte(q.CSR))
	if err != nil {
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", err.Error())
	}
	if name != node {
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", fmt.Sprintf("the certificate request is for node %q, the certificate is of %q", name, node))
	}
	key, err := pki.KeyPin(pub)
	if err != nil {
		return nil, refuse(http.StatusForbidden, "BadCertificateRequest", err.Error())
	}
	held, err := i.deps.Trust.Identity(ctx, node)
	if err != nil {
		return nil, err
	}
	known := func(held *trust.Identity) error {
		switch {
		case held == nil:
			return refuse(http.StatusForbidden, "UnknownNode", fmt.Sprintf("node %q was removed: join again with a token", node))
		case !held.Valid(pki.Issued(cert)):
			return revoked(node)
		}
		return nil
	}
	if err := known(held); err != nil {
		return nil, err
	}
	i.deps.Log.Info("certificate renewed", "node", node, "expired", i.deps.Now().After(cert.NotAfter), "remote", r.RemoteAddr)
	return i.sign(ctx, trust.Identity{Node: node, Machine: held.Machine, Key: key}, []byte(q.CSR), i.deps.Now(), known)
}

// sign records the identity and signs. Nothing is signed that is not on record.
func (i *Issuer) sign(ctx context.Context, id trust.Identity, csr []byte, issued time.Time, check func(*trust.Identity) error) (*join.Response, error) {
	_, pub, err := pki.NodeRequest(csr)
	if err != nil {
		return nil, err
	}
	a := i.deps.CA.Authority()
	cert, err := a.CA.SignNode(id.Node, pub, i.cfg.Validity, issued)
	if err != nil {
		return nil, err
	}
	id.Issued, id.Until, id.CA = issued, issued.Add(i.cfg.Validity), a.Pin()
	id.Renewable = id.Until.Add(i.cfg.Grace)
	if err := i.deps.Trust.Record(ctx, id, check); err != nil {
		return nil, err
	}
	signed, err := pki.ParseCertificates(cert)
	if err != nil {
		return nil, err
	}
	// The node says in time that it cannot come back by itself after that.
	cert = pki.WithRenewable(cert, signed[0].NotAfter.Add(i.cfg.Grace))
	return &join.Response{Certificate: string(cert), CA: string(a.Bundle()), Servers: i.cfg.Servers, QUICPort: i.cfg.QUICPort}, nil
}

// peer returns the node whose certificate the connection shows. One that has expired is taken within grace.
func (i *Issuer) peer(r *http.Request, grace time.Duration) (string, *x509.Certificate, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", nil, refuse(http.StatusUnauthorized, "NoCertificate", "expected the node's certificate")
	}
	cert, now := r.TLS.PeerCertificates[0], i.deps.Now()
	at := now
	if cert.NotAfter.Before(now) && now.Before(cert.NotAfter.Add(grace)) {
		at = cert.NotAfter
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: i.deps.CA.Authority().Pool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "", nil, refuse(http.StatusUnauthorized, "CertificateExpired", fmt.Sprintf("the certificate expired on %s, the time to renew it ended on %s: join again with a token",
			cert.NotAfter.UTC().Format(time.RFC3339), cert.NotAfter.Add(grace).UTC().Format(time.RFC3339)))
	case err != nil:
		return "", nil, refuse(http.StatusUnauthorized, "BadCertificate", "the certificate is not from this cluster's edge CA: join again with a token")
	}
	node, err := pki.NodeName(cert)
	if err != nil {
		return "", nil, refuse(http.StatusUnauthorized, "BadCertificate", err.Error())
	}
	if i.deps.CA.Revoked(node, cert) {
		return "", nil, revoked(node)
	}
	return node, cert, nil
}

func revoked(node string) *join.Refusal {
	return refuse(http.StatusForbidden, "Revoked", fmt.Sprintf("the certificates of node %q were revoked: join again with a token", node))
}

func (i *Issuer) node(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	node, cert, err := i.peer(r, 0)
	if err != nil {
		return nil, err
	}
	switch other, _, err := i.hasAnother(ctx, node, cert); {
	case err != nil:
		return nil, err
	case other:
		return join.State{Reason: "another machine is connected as this node: each needs a name of its own"}, nil
	}
	ready, reason := i.deps.Nodes.Ready(node)
	return join.State{Ready: ready, Reason: reason}, nil
}

// hasAnother reports whether a node's name is another key's than that of cert: a live session has it, or the record. session
// tells which.
func (i *Issuer) hasAnother(ctx context.Context, node string, cert *x509.Certificate) (session, record bool, err error) {
	key, err := pki.KeyPin(cert.PublicKey)
	if err != nil {
		return false, false, err
	}
	held, err := i.deps.Trust.Identity(ctx, node)
	if err != nil {
		return false, false, err
	}
	if held != nil && !held.Valid(pki.Issued(cert)) {
		return false, false, revoked(node)
	}
	present, live, err := i.deps.Nodes.Session(ctx, node)
	if err != nil {
		return false, false, err
	}
	return live && others(present, key, held), held != nil && held.Key != key, nil
}

// time tells the time, signed, to an edge whose clock cannot judge a certificate.
func (i *Issuer) time(_ context.Context, r *http.Request, _ []byte) (any, error) {
	nonce := r.URL.Query().Get("nonce")
	if nonce == "" || len(nonce) > join.MaxNonce {
		return nil, refuse(http.StatusBadRequest, "BadRequest", fmt.Sprintf("expected a nonce of 1 to %d bytes", join.MaxNonce))
	}
	a, now := i.deps.CA.Authority(), i.deps.Now().UnixMilli()
	sig, err := a.CA.Sign(join.TimeMessage(nonce, now))
	if err != nil {
		return nil, err
	}
	return join.SignedTime{UnixMS: now, Signature: sig, Chain: string(a.Chain())}, nil
}

// leave gives a name back. Only the machine that has it can: what is removed and revoked is the name's, whoever asks.
func (i *Issuer) leave(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	node, cert, err := i.peer(r, i.cfg.Grace)
	if err != nil {
		return nil, err
	}
	switch session, record, err := i.hasAnother(ctx, node, cert); {
	case err != nil:
		return nil, err
	case session || record:
		return nil, refuse(http.StatusConflict, "NameTaken", fmt.Sprintf("expected the key that node %q has now, found another one: another machine has the name, "+
			"and the cluster keeps it; what is on this machine goes without the cluster: keadm reset edge --keep-node", node))
	}
	if err := i.deps.Nodes.Remove(ctx, node); err != nil {
		return nil, err
	}
	if _, err := i.deps.Trust.Revoke(ctx, node); err != nil {
		return nil, err
	}
	if err := i.deps.Trust.Forget(ctx, node); err != nil {
		return nil, err
	}
	i.deps.Log.Info("node left", "node", node, "remote", r.RemoteAddr)
	return struct{}{}, nil
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}
