package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/common/pki"
)

const day = 24 * time.Hour

// env is the trust of a cluster in memory, with a clock of its own.
type env struct {
	*Store
	t      *testing.T
	client kubernetes.Interface
	at     time.Time
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t, client: fake.NewClientset(), at: time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)}
	e.Store = New(e.client, func() time.Time { return e.at })
	if _, _, err := e.EnsureCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *env) ca() *Authority {
	e.t.Helper()
	a, err := e.CA(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	return a
}

// issue records a certificate of the present CA, as CloudCore does.
func (e *env) issue(node string) Identity {
	e.t.Helper()
	id := Identity{Node: node, Issued: e.at, Until: e.at.Add(7 * day), Renewable: e.at.Add(97 * day), CA: e.ca().Pin()}
	if err := e.Record(e.t.Context(), id, func(*Identity) error { return nil }); err != nil {
		e.t.Fatal(err)
	}
	return id
}

func (e *env) rotate() {
	e.t.Helper()
	e.at = e.at.Add(time.Minute)
	if _, lost, err := e.RotateCA(e.t.Context(), false); err != nil || len(lost) > 0 {
		e.t.Fatalf("rotate: lost %v, %v", lost, err)
	}
	e.at = e.at.Add(time.Minute)
}

// without takes keys out of a Secret, as if a version before had written it.
func (e *env) without(secret string, keys ...string) {
	e.t.Helper()
	x, err := e.get(e.t.Context(), secret)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, k := range keys {
		delete(x.Data, k)
	}
	if _, err := e.client.CoreV1().Secrets(Namespace).Update(e.t.Context(), x, metav1.UpdateOptions{}); err != nil {
		e.t.Fatal(err)
	}
}

// trusts reports whether an edge that knows one CA alone believes a CloudCore of now.
func trusts(t *testing.T, known *pki.CA, now *Authority, at time.Time) error {
	t.Helper()
	pair, err := now.Server(nil, day)
	if err != nil {
		t.Fatal(err)
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, DNSName: pki.ServerName}
	o.Roots.AddCert(known.Cert())
	for _, der := range pair.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		o.Intermediates.AddCert(c)
	}
	_, err = pair.Leaf.Verify(o)
	return err
}

func TestAnEdgeThatSleptThroughRotationsTrustsCloudCore(t *testing.T) {
	e := newEnv(t)
	first := e.ca().CA
	e.issue("asleep")
	for i := range maxCAs - 1 {
		e.rotate()
		if err := trusts(t, first, e.ca(), e.at); err != nil {
			t.Fatalf("after %d rotations: %v", i+1, err)
		}
	}
	if _, _, err := e.RotateCA(t.Context(), false); err == nil || !strings.Contains(err.Error(), "--retire") {
		t.Errorf("a rotation more than handshakes should carry: %v", err)
	}
	other, err := pki.NewCA("other", day, e.now)
	if err != nil {
		t.Fatal(err)
	}
	if trusts(t, other, e.ca(), e.at) == nil {
		t.Error("an edge of another cluster trusts this CloudCore")
	}
}

func wantLockout(t *testing.T, what string, err error, nodes ...string) {
	t.Helper()
	var l *LockoutError
	if !errors.As(err, &l) || !slices.Equal(l.Nodes, nodes) {
		t.Errorf("%s: got %v, expected a refusal that names %v", what, err, nodes)
	}
}

// A CA whose key was not kept, as versions before did it, vouches for no other.
func TestARotationThatLocksNodesOutIsRefused(t *testing.T) {
	e := newEnv(t)
	first := e.ca().CA
	e.issue("renews")
	e.issue("asleep")
	e.rotate()
	e.without(CASecret, keyFormerKeys)
	e.issue("renews")
	before := e.ca().Pin()
	_, _, err := e.RotateCA(t.Context(), false)
	wantLockout(t, "a rotation", err, "asleep")
	if e.ca().Pin() != before {
		t.Error("the CA was replaced nevertheless")
	}
	a, lost, err := e.RotateCA(t.Context(), true)
	if err != nil || !slices.Equal(lost, []string{"asleep"}) {
		t.Fatalf("with force: lost %v, %v, expected asleep", lost, err)
	}
	if trusts(t, first, a, e.at) == nil {
		t.Error("the node that was said to be locked out is not")
	}
}

func TestARetirementThatLocksNodesOutIsRefused(t *testing.T) {
	e := newEnv(t)
	var all []string
	for i := range 12 {
		all = append(all, fmt.Sprintf("edge-%02d", i))
		e.issue(all[i])
	}
	first := e.ca().CA.Cert()
	e.rotate()
	_, err := e.RetireCAs(t.Context(), false)
	wantLockout(t, "a retirement", err, all...)
	for _, want := range []string{"found 12", "edge-09 and 2 more", "two thirds", "--force", "join again"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("it says %v, expected %q in it", err, want)
		}
	}
	if len(e.ca().formers) != 1 {
		t.Error("the former CA is gone nevertheless")
	}
	for _, node := range all[2:] {
		e.issue(node)
	}
	_, err = e.RetireCAs(t.Context(), false)
	wantLockout(t, "after all but two have renewed", err, all[:2]...)
	if _, err := e.Revoke(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	_, err = e.RetireCAs(t.Context(), false)
	wantLockout(t, "after one of these was revoked", err, all[1])
	e.at = e.at.Add(98 * day)
	if lost, err := e.RetireCAs(t.Context(), false); err != nil || len(lost) > 0 {
		t.Errorf("after the last can renew no more: lost %v, %v", lost, err)
	}
	if a := e.ca(); len(a.formers) > 0 || slices.ContainsFunc(parse(t, a.Bundle()), first.Equal) {
		t.Error("the former CA is still trusted")
	}
	x, err := e.get(t.Context(), CASecret)
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Data) != 2 {
		t.Errorf("%d entries are left in the Secret, expected the present certificate and key alone", len(x.Data))
	}
}

func TestARetirementByForceSaysWhomItLocksOut(t *testing.T) {
	e := newEnv(t)
	e.issue("asleep")
	e.rotate()
	lost, err := e.RetireCAs(t.Context(), true)
	if err != nil || !slices.Equal(lost, []string{"asleep"}) {
		t.Errorf("lost %v, %v, expected asleep", lost, err)
	}
}

func parse(t *testing.T, bundle []byte) []*x509.Certificate {
	t.Helper()
	certs, err := pki.ParseCertificates(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// Records of versions before do not say which CA signed: the time does.
func TestTheCAOfAnOldRecordIsKnownByItsTime(t *testing.T) {
	e := newEnv(t)
	old := e.issue("old")
	e.rotate()
	middle := e.issue("middle")
	e.rotate()
	present := e.issue("present")
	for _, node := range []string{"old", "middle", "present"} {
		e.without(identityName(node), keyIssuer, keyRenewable)
	}
	ids, err := e.Identities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		want := map[string]Identity{"old": old, "middle": middle, "present": present}[id.Node]
		if got := e.ca().issuer(id); got == nil || pki.Pin(got) != want.CA {
			t.Errorf("%s is taken to be of another CA than that of its time", id.Node)
		}
		if !id.Renewable.Equal(want.Renewable) {
			t.Errorf("%s is taken to be renewable until %s, expected %s", id.Node, id.Renewable, want.Renewable)
		}
	}
	_, err = e.RetireCAs(t.Context(), false)
	wantLockout(t, "a retirement", err, "middle", "old")
	if _, err := e.RetireCAs(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		want := Retired
		if id.Node == "present" {
			want = Present
		}
		if got := e.ca().Standing(id); got != want {
			t.Errorf("the standing of %s is %d, expected %d", id.Node, got, want)
		}
	}
}
