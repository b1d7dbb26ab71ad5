package edgecore

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/pki"
)

func openForTest(t *testing.T, dir string) *localPKI {
	t.Helper()
	p, err := openLocalPKI(dir, "127.0.0.1:10550", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Nothing that a power cut can leave of the local CA keeps edgecore from starting.
func TestALocalCAThatIsDamagedIsMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"only the key":         func(dir string) error { return os.Remove(filepath.Join(dir, pki.CACertFile)) },
		"only the certificate": func(dir string) error { return os.Remove(filepath.Join(dir, pki.CAKeyFile)) },
		"an empty key":         func(dir string) error { return os.Truncate(filepath.Join(dir, pki.CAKeyFile), 0) },
		"of another CA": func(dir string) error {
			ca, err := pki.NewCA("other", localValidity, localClock)
			if err != nil {
				return err
			}
			return pki.WriteFile(filepath.Join(dir, pki.CACertFile), ca.CertPEM(), 0o644)
		},
		"of an expired clock": func(dir string) error {
			old, err := pki.NewCA("tether-local", time.Hour, func() time.Time { return time.Now().AddDate(-1, 0, 0) })
			if err != nil {
				return err
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return old.Save(dir)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			openForTest(t, dir)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			p := openForTest(t, dir)
			if _, err := p.serverTLS(); err != nil {
				t.Errorf("no server certificate: %v", err)
			}
			if again := openForTest(t, dir); !again.ca.Cert().Equal(p.ca.Cert()) {
				t.Error("a CA that can be used was replaced")
			}
		})
	}
}

// A gateway may start for the first time in 1970 or in 2090: what it makes then is good at any time.
func TestLocalCertificatesAreValidByAnyClock(t *testing.T) {
	p := openForTest(t, t.TempDir())
	config, err := p.serverTLS()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.Cert())
	for _, year := range []int{1970, 2026, 2090} {
		leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(year, 1, 2, 0, 0, 0, 0, time.UTC)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, DNSName: "127.0.0.1"}); err != nil {
			t.Errorf("in %d: %v", year, err)
		}
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := p.writeKubeconfig(file, "n1"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte("client-key-data")) {
		t.Errorf("kubeconfig %q: %v", b, err)
	}
}
