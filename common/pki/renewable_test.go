package pki

import (
	"crypto/x509"
	"testing"
	"time"
)

// The line stands in the certificate's file: everything that reads certificates has to go on doing so.
func TestACertificateSaysUntilWhenItCanBeExchanged(t *testing.T) {
	ca, err := NewCA("edge", 24*time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	marked := WithRenewable(ca.CertPEM(), until)
	if got, ok := Renewable(marked); !ok || !got.Equal(until) {
		t.Errorf("reads %v, %v, expected %v", got, ok, until)
	}
	if certs, err := ParseCertificates(marked); err != nil || len(certs) != 1 || !certs[0].Equal(ca.Cert()) {
		t.Errorf("the certificate cannot be read beside it: %v", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(marked) {
		t.Error("Go's own reader finds no certificate")
	}
	behind := append(ca.CertPEM(), []byte("Renewable-Until: 2031-02-03T04:05:06Z\n")...)
	for name, data := range map[string][]byte{"none": ca.CertPEM(), "behind the certificate": behind, "no time": WithRenewable(nil, time.Time{})[:20], "empty": nil} {
		if got, ok := Renewable(data); ok {
			t.Errorf("%s: reads %v", name, got)
		}
	}
}
