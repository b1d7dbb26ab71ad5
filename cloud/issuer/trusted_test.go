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
