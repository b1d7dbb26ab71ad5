package controlplane

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type pkiFixture struct {
	t   *testing.T
	pki *pki
	cfg Config
	at  time.Time
}

func newPKIFixture(t *testing.T) *pkiFixture {
	f := &pkiFixture{t: t, cfg: DefaultConfig(), at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	f.pki = &pki{dir: t.TempDir(), log: testLog(t), now: func() time.Time { return f.at }}
	return f
}

func (f *pkiFixture) ensure() error {
	specs, err := certSpecs(&f.cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.pki.ensure(specs)
}

// mustEnsure returns the names of the files that changed, in order.
func (f *pkiFixture) mustEnsure() []string {
	f.t.Helper()
	before := f.files()
	if err := f.ensure(); err != nil {
		f.t.Fatal(err)
	}
	var changed []string
	for name, body := range f.files() {
		if before[name] != body {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

func (f *pkiFixture) files() map[string]string {
	f.t.Helper()
	entries, err := os.ReadDir(f.pki.dir)
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		body, err := os.ReadFile(filepath.Join(f.pki.dir, e.Name()))
		if err != nil {
			f.t.Fatal(err)
		}
		out[e.Name()] = string(body)
	}
	return out
}

func TestCertificatesAreKeptAcrossRestarts(t *testing.T) {
	f := newPKIFixture(t)
	if made := f.mustEnsure(); len(made) != 3*2+8*2+2 {
		t.Errorf("first start made %d files: %v", len(made), made)
	}
	f.at = f.at.Add(200 * 24 * time.Hour)
	if changed := f.mustEnsure(); len(changed) != 0 {
		t.Errorf("a later start changed %v", changed)
	}
}

func TestKeysAreReadableByTheirOwnerOnly(t *testing.T) {
	f := newPKIFixture(t)
	f.mustEnsure()
	for name := range f.files() {
		info, err := os.Stat(filepath.Join(f.pki.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o644)
		if strings.HasSuffix(name, ".key") {
			want = 0o600
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, expected %v", name, info.Mode().Perm(), want)
		}
	}
}

func TestCertificatesNearExpiryAreIssuedAgainAndAuthoritiesAreNot(t *testing.T) {
	f := newPKIFixture(t)
	f.mustEnsure()
	f.at = f.at.Add(certLife - renewBefore + time.Minute)
	changed := f.mustEnsure()
	if len(changed) != 8*2 {
		t.Errorf("expected 8 certificates and keys, changed: %v", changed)
	}
	for _, name := range []string{"ca.crt", "etcd-ca.crt", "front-proxy-ca.crt", "sa.key"} {
		if slices.Contains(changed, name) {
			t.Errorf("%s was replaced: everything that trusts it is lost", name)
		}
	}
}

func TestChangedAddressesChangeOnlyTheServingCertificate(t *testing.T) {
	f := newPKIFixture(t)
	f.mustEnsure()
	f.cfg.ExtraAddresses = []string{"10.200.0.1"}
	f.cfg.ExtraSANs = []string{"cluster.example.com"}
	if changed := f.mustEnsure(); !slices.Equal(changed, []string{"apiserver.crt", "apiserver.key"}) {
		t.Errorf("changed: %v", changed)
	}
	serving, err := loadKeyPair(f.pki.cert(certAPIServer), f.pki.key(certAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(f.files()["ca.crt"]))
	for _, name := range []string{"10.200.0.1", "127.0.0.1", "10.96.0.1", "cluster.example.com", "kubernetes.default.svc", "localhost"} {
		opts := x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: f.at}
		if _, err := serving.cert.Verify(opts); err != nil {
			t.Errorf("a client that calls %s refuses the certificate: %v", name, err)
		}
	}
}

func TestDamagedOrMixedUpPairIsIssuedAgain(t *testing.T) {
	f := newPKIFixture(t)
	f.mustEnsure()
	if err := os.WriteFile(f.pki.key(certAdmin), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := f.files()["etcd.key"]
	if err := os.WriteFile(f.pki.key(certScheduler), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"admin.crt", "admin.key", "kube-scheduler.crt", "kube-scheduler.key"}
	if changed := f.mustEnsure(); !slices.Equal(changed, want) {
		t.Errorf("changed %v, expected %v", changed, want)
	}
}

func TestAnAuthorityIsNeverReplacedSilently(t *testing.T) {
	f := newPKIFixture(t)
	f.mustEnsure()
	before := f.files()
	if err := os.Remove(f.pki.key(clusterCA)); err != nil {
		t.Fatal(err)
	}
	if err := f.ensure(); err == nil || !strings.Contains(err.Error(), "restore both files from a backup") {
		t.Errorf("key lost: expected a refusal that says how to mend it, got: %v", err)
	}
	if f.files()["ca.crt"] != before["ca.crt"] {
		t.Error("the authority was replaced")
	}
	if err := os.WriteFile(f.pki.key(clusterCA), []byte(before["ca.key"]), 0o600); err != nil {
		t.Fatal(err)
	}
	f.at = f.at.Add(caLife)
	if err := f.ensure(); err == nil || !strings.Contains(err.Error(), "expired on") {
		t.Errorf("expired: expected a refusal, got: %v", err)
	}
}
