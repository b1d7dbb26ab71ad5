// Package renew keeps a node's certificate valid: at two thirds of its life it asks CloudCore for the next one, with the
// same key, which never leaves the machine.
//
// It promises that nobody has to think of it, also after months without a network: an expired certificate is tried as
// well, CloudCore decides. The files are replaced whole, one at a time, and each pair of old and new works. Since the key
// stays there is no moment in which key and certificate do not match. edge/edgecore wires it.
package renew

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
)

// Config parametrizes a Renewer.
type Config struct {
	Node             string
	CertFile, CAFile string
	// Servers are the host:port of join ports, tried in random order.
	Servers []string
}

// Deps are what a Renewer works with.
type Deps struct {
	// Proxy is what requests go through; see join.Client.
	Proxy func(*http.Request) (*url.URL, error)
	// Identity and Roots are read from CertFile and CAFile.
	Identity pki.Presenter
	Roots    pki.Roots
	Log      *slog.Logger
	Now      func() time.Time
	Registry prometheus.Registerer
}

// A Renewer renews one certificate.
type Renewer struct {
	cfg      Config
	deps     Deps
	renewals *prometheus.CounterVec
	// soon has room for one wish; retry is retryMin but in tests.
	soon  chan struct{}
	retry time.Duration
}

// New returns a Renewer that does nothing until Start.
func New(cfg Config, deps Deps) *Renewer {
	r := &Renewer{cfg: cfg, deps: deps, soon: make(chan struct{}, 1), retry: retryMin, renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tether_edgecore_certificate_renewals_total", Help: "Tries to renew this node's certificate, by result."}, []string{"result"})}
	deps.Registry.MustRegister(r.renewals, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tether_edgecore_certificate_expiry_timestamp_seconds", Help: "When this node's certificate expires, in seconds since 1970.",
	}, func() float64 { return float64(deps.Identity.Certificate().Leaf.NotAfter.Unix()) }))
	return r
}

const (
	// look is how often the certificate is looked at: a clock that jumps must not keep it waiting.
	look = time.Minute
	// Between tries that fail pass retryMin to retryMax, doubling, with jitter.
	retryMin, retryMax = 10 * time.Second, time.Hour
	// soonEvery is the least time between two tries that Soon makes.
	soonEvery = time.Second
)

// Soon has a certificate that is due renewed now, and not after the pause that tries without a network have made long: CloudCore was
// reached, and takes the present one no more.
func (r *Renewer) Soon() {
	select {
	case r.soon <- struct{}{}:
	default:
	}
}

// Start renews until ctx is done.
func (r *Renewer) Start(ctx context.Context) error {
	pause, tried := r.retry, time.Time{}
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-r.soon:
			if time.Since(tried) < soonEvery {
				continue
			}
			pause = r.retry
		}
		t.Reset(look)
		if r.deps.Now().Before(r.Due()) {
			pause = r.retry
			continue
		}
		tried = time.Now()
		err := r.Renew(ctx)
		if err == nil {
			r.renewals.WithLabelValues("ok").Inc()
			pause = r.retry
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		result := "failed"
		var refusal *join.Refusal
		if errors.As(err, &refusal) && refusal.Status < 500 && refusal.RetryAfter == 0 {
			result, pause = "refused", retryMax
		}
		r.renewals.WithLabelValues(result).Inc()
		wait := pause/2 + time.Duration(rand.Int64N(int64(pause)))
		t.Reset(wait)
		pause = min(pause*2, retryMax)
		r.deps.Log.Warn("cannot renew this node's certificate", "expires", r.deps.Identity.Certificate().Leaf.NotAfter, "again in", wait.Round(time.Second), "error", err)
	}
}

// Due is when the certificate has lived two thirds of its life.
func (r *Renewer) Due() time.Time {
	leaf := r.deps.Identity.Certificate().Leaf
	return leaf.NotAfter.Add(-leaf.NotAfter.Sub(pki.Issued(leaf)) / 3)
}

// Renew asks for the next certificate now and writes it.
func (r *Renewer) Renew(ctx context.Context) error {
	key, ok := r.deps.Identity.Certificate().PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("this node's key cannot sign")
	}
	csr, err := pki.NewNodeRequest(r.cfg.Node, key)
	if err != nil {
		return err
	}
	var resp *join.Response
	for _, i := range rand.Perm(len(r.cfg.Servers)) {
		c := &join.Client{Server: r.cfg.Servers[i], Roots: r.deps.Roots, Identity: r.deps.Identity, Now: r.deps.Now, Proxy: r.deps.Proxy}
		var e error
		if resp, e = c.Renew(ctx, csr); e == nil {
			break
		}
		err = errors.Join(err, e)
	}
	if resp == nil {
		return err
	}
	return r.write(resp)
}

func (r *Renewer) write(resp *join.Response) error {
	certs, err := pki.ParseCertificates([]byte(resp.Certificate))
	if err != nil {
		return fmt.Errorf("CloudCore's answer: %w", err)
	}
	if name, err := pki.NodeName(certs[0]); err != nil || name != r.cfg.Node {
		return fmt.Errorf("CloudCore's answer: expected a certificate of node %q, found one of %q: %w", r.cfg.Node, certs[0].Subject, errors.Join(err))
	}
	if _, err := join.NewStaticRoots([]byte(resp.CA)); err != nil {
		return fmt.Errorf("CloudCore's answer: CA: %w", err)
	}
	if held, err := os.ReadFile(r.cfg.CAFile); err != nil || !bytes.Equal(held, []byte(resp.CA)) {
		if err := pki.WriteFile(r.cfg.CAFile, []byte(resp.CA), 0o644); err != nil {
			return err
		}
		r.deps.Log.Info("the cluster's edge CAs changed", "file", r.cfg.CAFile)
	}
	if err := pki.WriteFile(r.cfg.CertFile, []byte(resp.Certificate), 0o644); err != nil {
		return err
	}
	r.deps.Log.Info("this node's certificate was renewed", "until", certs[0].NotAfter)
	return nil
}
