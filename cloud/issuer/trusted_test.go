package issuer

import (
	"sync"
	"testing"
)

// CloudCore's own certificate is renewed at any time, also in the moment in which the CA is replaced.
func TestARenewalOfTheOwnCertificateBringsNoFormerCABack(t *testing.T) {
	e := newEnv(t)
	for range 30 {
		if _, _, err := e.store.RotateCA(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if _, err := e.store.RetireCAs(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		next, err := e.store.CA(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		for _, do := range []func() error{e.trusted.renew, func() error { return e.trusted.take(next) }} {
			both.Go(func() {
				if err := do(); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if e.trusted.Authority() != next {
			t.Fatal("the CA is a former one again")
		}
		if err := e.trusted.Certificate().Leaf.CheckSignatureFrom(next.CA.Cert()); err != nil {
			t.Fatalf("CloudCore's certificate: %v", err)
		}
	}
}

// A revocation is dropped once what it revokes can no longer be renewed. A configuration that gives more time for that
// later brings nothing back.
func TestALongerGraceBringsNoRevokedCertificateBack(t *testing.T) {
	e := newEnv(t)
	j := e.join("edge-1")
	if _, err := e.store.Revoke(t.Context(), "edge-1"); err != nil {
		t.Fatal(err)
	}
	e.add(98 * day)
	e.reload()
	e.join("edge-2")
	if _, err := e.store.Revoke(t.Context(), "edge-2"); err != nil {
		t.Fatal(err)
	}
	e.reload()
	if e.trusted.Revoked("edge-1", j.cert) {
		t.Fatal("the revocation is kept")
	}
	e.issuer.cfg.Grace = 365 * day // as a CloudCore that was started anew has it
	_, err := j.Renew(t.Context(), []byte(csr(t, "edge-1", j.key)))
	wantRefusal(t, "a renewal", err, "Revoked")
	wantRefusal(t, "giving the name back", j.Leave(t.Context()), "Revoked")
}
