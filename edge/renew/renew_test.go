package renew

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tether-edge/tether/common/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identity is a node's, whose certificate ended a month ago.
type identity struct{ cert tls.Certificate }

func (i identity) Certificate() *tls.Certificate { return &i.cert }

type noRoots struct{}

func (noRoots) Pool() *x509.CertPool { return x509.NewCertPool() }

// TestACertificateThatIsRefusedIsRenewedAtOnce: tries without a network have made the pause long, and the first word from CloudCore
// is that the certificate ended.
func TestACertificateThatIsRefusedIsRenewedAtOnce(t *testing.T) {
	ca, err := pki.NewCA("test", time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueNode("edge-1", time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing listens there: each try fails, and is counted.
	r := New(Config{Node: "edge-1", Servers: []string{"127.0.0.1:1"}}, Deps{Identity: identity{cert}, Roots: noRoots{}, Log: slog.New(slog.DiscardHandler),
		Now: time.Now, Registry: prometheus.NewRegistry()})
	r.retry = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Start(ctx) }()
	tries := func(n float64, meanwhile func()) {
		t.Helper()
		tick, over := time.NewTicker(10*time.Millisecond), time.After(30*time.Second)
		defer tick.Stop()
		for testutil.ToFloat64(r.renewals.WithLabelValues("failed")) < n {
			meanwhile()
			select {
			case <-tick.C:
			case <-over:
				t.Fatalf("waited in vain for try %v", n)
			}
		}
	}
	tries(1, func() {})
	tries(2, r.Soon)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
