package issuer

import (
	"testing"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
)

// The first certificate and each that follows say until when they can be exchanged; what the node shows of itself goes by it.
func TestEachCertificateSaysUntilWhenItCanBeExchanged(t *testing.T) {
	e := newEnv(t)
	b, key := e.token("edge-1", 1), newKey(t)
	first, err := e.client(b).Join(t.Context(), e.request(b, "edge-1", key))
	if err != nil {
		t.Fatal(err)
	}
	e.add(5 * day)
	second, err := e.as(first, key).Renew(t.Context(), []byte(csr(t, "edge-1", key)))
	if err != nil {
		t.Fatal(err)
	}
	for name, answer := range map[string]*join.Response{"joined": first, "renewed": second} {
		until, ok := pki.Renewable([]byte(answer.Certificate))
		if want := e.as(answer, key).cert.NotAfter.Add(90 * day); !ok || !until.Equal(want) {
			t.Errorf("%s: it says %v, %v, expected %v:\n%s", name, until, ok, want, answer.Certificate)
		}
	}
}
