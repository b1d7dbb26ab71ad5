package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	day   = 24 * time.Hour
	today = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
)

// at is a clock that stands at today plus d.
func at(d time.Duration) Clock { return func() time.Time { return today.Add(d) } }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test edge CA", 3650*day, at(0))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// save writes a pair into a new directory and returns the paths of both files.
func save(t *testing.T, p Pair, err error) (certFile, keyFile string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := p.Save(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func identity(t *testing.T, p Pair, err error) *Identity {
	t.Helper()
	certFile, keyFile := save(t, p, err)
	id, err := NewIdentity(certFile, keyFile, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func authorities(t *testing.T, ca *CA) *Authorities {
	t.Helper()
	f := filepath.Join(t.TempDir(), CACertFile)
	if err := WriteFile(f, ca.CertPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthorities(f, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parse(t *testing.T, p Pair, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	certs, err := ParseCertificates(p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func TestNodeCertificateNamesItsNode(t *testing.T) {
	p, err := newCA(t).IssueNode("edge-1.site.example", 365*day)
	if name, err := NodeName(parse(t, p, err)); err != nil || name != "edge-1.site.example" {
		t.Errorf("NodeName = %q, %v", name, err)
	}
}

func TestOnlyANodesCertificateNamesANode(t *testing.T) {
	for want, subject := range map[string]pkix.Name{
		"common name":             {CommonName: "edge-1", Organization: []string{nodeGroup}},
		"organization":            {CommonName: nodePrefix + "edge-1", Organization: []string{"system:masters"}},
		"found []":                {CommonName: nodePrefix + "edge-1"},
		`found ""`:                {CommonName: nodePrefix, Organization: []string{nodeGroup}},
		`found "Edge"`:            {CommonName: nodePrefix + "Edge", Organization: []string{nodeGroup}},
		`found "a/b"`:             {CommonName: nodePrefix + "a/b", Organization: []string{nodeGroup}},
		`found "system:node:a"`:   {CommonName: nodePrefix + nodePrefix + "a", Organization: []string{nodeGroup}},
		`found " system:node:a"`:  {CommonName: " " + nodePrefix + "a", Organization: []string{nodeGroup}},
		`found ["system:nodes "]`: {CommonName: nodePrefix + "a", Organization: []string{nodeGroup + " "}},
	} {
		name, err := NodeName(&x509.Certificate{Subject: subject})
		if !errors.Is(err, ErrNotNode) || name != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: NodeName = %q, %v; expected an error that says %s", subject, name, err, want)
		}
	}
}

func TestForeignNamesAreNotIssued(t *testing.T) {
	ca := newCA(t)
	for _, n := range []string{"", "Edge", "a_b", "system:masters", "a/b", strings.Repeat("a", 254)} {
		if _, err := ca.IssueNode(n, day); err == nil {
			t.Errorf("a certificate was issued for node %q", n)
		}
	}
	for _, h := range [][]string{nil, {"hub:10000"}, {"a b"}, {"good", ""}} {
		if _, err := ca.IssueServer(h, day); err == nil {
			t.Errorf("a certificate was issued for server %q", h)
		}
	}
}

func TestCertificatesStayWithinTheCAsTime(t *testing.T) {
	ca := newCA(t)
	p, err := ca.IssueNode("a", 100*365*day)
	if c := parse(t, p, err); !c.NotAfter.Equal(ca.Cert().NotAfter) || !c.NotBefore.Equal(today.Add(-backdate)) {
		t.Errorf("valid from %v to %v; expected from %v to the CA's end, %v", c.NotBefore, c.NotAfter, today.Add(-backdate), ca.Cert().NotAfter)
	}
	ca.now = at(3651 * day)
	if _, err := ca.IssueNode("a", day); err == nil || !strings.Contains(err.Error(), "clock says 2040-") {
		t.Errorf("an expired CA issued a certificate, or did not say what the clock says: %v", err)
	}
}

func TestSavedCALoadsAndIsNeverReplaced(t *testing.T) {
	dir, ca := filepath.Join(t.TempDir(), "pki"), newCA(t)
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadCA(dir, at(0))
	if err != nil || !got.Cert().Equal(ca.Cert()) {
		t.Fatalf("loaded another CA, %v", err)
	}
	p, err := got.IssueNode("a", day)
	if err := parse(t, p, err).CheckSignatureFrom(ca.Cert()); err != nil {
		t.Errorf("the loaded CA signs with another key: %v", err)
	}
	for f, mode := range map[string]fs.FileMode{CACertFile: 0o644, CAKeyFile: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; expected mode %v", f, info.Mode(), err, mode)
		}
	}
	before, _ := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err := newCA(t).Save(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Save over a CA: %v, expected %v", err, fs.ErrExist)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, CAKeyFile)); !bytes.Equal(before, after) {
		t.Error("the CA's key was replaced")
	}
}

func TestWrongFilesAreNamed(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	p1, err1 := ca.IssueNode("a", day)
	cert1, key1 := save(t, p1, err1)
	p2, err2 := ca.IssueNode("b", day)
	_, key2 := save(t, p2, err2)
	absent := filepath.Join(dir, "absent")
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cert, key string
		want      []string
	}{
		{absent, key1, []string{absent, "no such file"}},
		{cert1, absent, []string{absent, "no such file", "private key"}},
		{cert1, key2, []string{cert1, key2, "do not make a pair", "system:node:a"}},
		{key1, cert1, []string{key1, "PRIVATE KEY"}},
		{text, key1, []string{text, "found none"}},
		{dir, key1, []string{dir, "expected a PEM file"}},
	} {
		_, err := NewIdentity(c.cert, c.key, quiet())
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("NewIdentity(%s, %s) = %v, expected it to say %q", c.cert, c.key, err, w)
			}
		}
	}
	if _, err := NewAuthorities(cert1, quiet()); err == nil || !strings.Contains(err.Error(), "no authority") {
		t.Errorf("a node's certificate was taken for an authority: %v", err)
	}
	if _, err := NewAuthorities(absent, quiet()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NewAuthorities(absent) = %v", err)
	}
	if err := p1.Save(filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(dir, at(0)); err == nil || !strings.Contains(err.Error(), "not a certificate authority's") {
		t.Errorf("a node's certificate was taken for a CA: %v", err)
	}
}

func TestFilesAreReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "deep", "f")
	for _, data := range []string{"first and longer", "second"} {
		if err := WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(p); err != nil || string(got) != data {
			t.Errorf("read %q, %v; expected %q", got, err, data)
		}
	}
	held, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := WriteFile(p, []byte("third"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if n, _ := held.Read(b); string(b[:n]) != "second" {
		t.Errorf("a reader of the old file sees %q, expected it unchanged", b[:n])
	}
	// Renaming over a directory fails: nothing may be left beside it.
	if err := WriteFile(filepath.Join(dir, "deep"), nil, 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReplacedFilesAreTakenUpAndBadOnesAreNot(t *testing.T) {
	ca := newCA(t)
	p, err := ca.IssueNode("a", day)
	certFile, keyFile := save(t, p, err)
	var log bytes.Buffer
	id, err := NewIdentity(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string { return id.Certificate().Leaf.SerialNumber.String() }
	first := serial()
	next, err := ca.IssueNode("a", day)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(keyFile, next.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if serial() != first {
			t.Error("a key without its certificate was taken up")
		}
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("logged %d warnings for one bad change, expected 1:\n%s", n, log.String())
	}
	if err := WriteFile(certFile, next.Cert, 0o644); err != nil {
		t.Fatal(err)
	}
	if serial() != parse(t, next, nil).SerialNumber.String() {
		t.Error("the new pair was not taken up")
	}
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if serial() != parse(t, next, nil).SerialNumber.String() {
		t.Error("the pair was lost with its file")
	}
}

func FuzzParseCertificates(f *testing.F) {
	ca, err := NewCA("fuzz", day, at(0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.CertPEM())
	f.Add(ca.CertPEM()[:100])
	f.Add(append(ca.CertPEM(), ca.CertPEM()...))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := ParseCertificates(data)
		if (err == nil) != (len(certs) > 0) {
			t.Errorf("%d certificates with error %v", len(certs), err)
		}
		for _, c := range certs {
			if name, err := NodeName(c); err == nil && checkNodeName(name) != nil {
				t.Errorf("NodeName let %q through", name)
			}
		}
	})
}

func TestNodeNameReturnsWhatWasIssuedForAnyName(t *testing.T) {
	ca := newCA(t)
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.StringMatching(`[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,5}){0,3}`).Draw(rt, "name")
		p, err := ca.IssueNode(want, day)
		if got, err := NodeName(parse(t, p, err)); got != want || err != nil {
			rt.Fatalf("issued for %q, read %q, %v", want, got, err)
		}
	})
}
