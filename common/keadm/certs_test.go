package keadm

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/common/trust"
)

func TestCertsListSaysWhatACertificateIsWorth(t *testing.T) {
	day := 24 * time.Hour
	at := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	store := trust.New(fake.NewClientset(), func() time.Time { return at })
	first, _, err := store.EnsureCA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := store.RotateCA(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	revoked := trust.Revocations{"stolen": at.Add(time.Hour)}
	for _, c := range []struct {
		node, ca string
		after    time.Duration
		want     string
	}{
		{"edge", second.Pin(), 0, "valid"},
		{"edge", first.Pin(), 0, "valid, of a former CA"},
		{"edge", strings.Repeat("0", 64), 0, "of a retired CA: must join again"},
		{"stolen", second.Pin(), 0, "revoked"},
		{"edge", first.Pin(), 8 * day, "expired"},
		{"edge", second.Pin(), 98 * day, "expired: must join again"},
	} {
		id := trust.Identity{Node: c.node, CA: c.ca, Issued: at, Until: at.Add(7 * day), Renewable: at.Add(97 * day)}
		if got := certificateState(id, second, revoked, at.Add(c.after)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestRotateByForceNamesWhomItLocksOut(t *testing.T) {
	at := time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)
	store := trust.New(fake.NewClientset(), func() time.Time { return at })
	a, _, err := store.EnsureCA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := trust.Identity{Node: "asleep", CA: a.Pin(), Issued: at, Until: at.Add(time.Hour), Renewable: at.Add(time.Hour)}
	if err := store.Record(t.Context(), id, func(*trust.Identity) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := rotate(t.Context(), &out, store, true, false); err != nil || out.String() != "no former edge CA is trusted: there is nothing to retire\n" {
		t.Errorf("with nothing to retire: %v\n%s", err, &out)
	}
	out.Reset()
	if err := rotate(t.Context(), &out, store, false, false); err != nil || strings.Contains(out.String(), "asleep") {
		t.Errorf("a rotation, which locks nobody out: %v\n%s", err, &out)
	}
	if err := rotate(t.Context(), &out, store, true, false); err == nil || !strings.Contains(err.Error(), "asleep") {
		t.Errorf("a retirement that locks a node out: %v", err)
	}
	out.Reset()
	if err := rotate(t.Context(), &out, store, true, true); err != nil || !strings.Contains(out.String(), "locked out, to join again each with a token (keadm gettoken --node NODE): asleep") {
		t.Errorf("by force: %v\n%s", err, &out)
	}
}
