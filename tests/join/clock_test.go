package join

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/edge/clock"
)

// gateway is a machine with a clock of its own.
type gateway struct {
	w    *world
	file string
	off  time.Duration // of its clock
}

func (g *gateway) system() time.Time { return g.w.now().Add(g.off) }

// boot starts a clock, which knows when its certificate was issued.
func (g *gateway) boot() *clock.Clock {
	return clock.New(clock.Deps{System: g.system, File: g.file, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
		Roots: func() ([]*x509.Certificate, error) { return pki.ReadCertificates(g.w.file("ca.crt")) }}, pki.Issued(g.w.id.Certificate().Leaf))
}

// node asks the join port for its state, by a clock.
func (g *gateway) node(c *clock.Clock) error {
	_, err := (&join.Client{Server: g.w.addr, Roots: g.w.roots, Identity: g.w.id, Now: c.Now}).Node(g.w.t.Context())
	return err
}

func newGateway(t *testing.T) *gateway {
	return &gateway{w: newWorld(t), file: filepath.Join(t.TempDir(), "time")}
}

const century = 60 * 365 * day

func TestABootIn1970KeepsTLSWorking(t *testing.T) {
	g := newGateway(t)
	g.off = -century
	c := g.boot()
	if now := c.Now(); now.Before(g.w.now().Add(-time.Minute)) {
		t.Errorf("the time is %s, before the certificate was issued", now)
	}
	if err := g.node(c); err != nil {
		t.Errorf("in 1970: %v", err)
	}
	// Weeks later, after a session, it boots in 1970 again: the certificate's issue alone would do, the stored time is nearer.
	g.w.add(5 * day)
	c.Heard(g.w.now())
	g.w.add(time.Hour)
	if c = g.boot(); c.Now().Before(g.w.now().Add(-2 * time.Hour)) {
		t.Errorf("after another boot the time is %s, expected about %s", c.Now(), g.w.now())
	}
	before := c.Now()
	g.w.add(time.Hour)
	if got := c.Now().Sub(before); got != time.Hour {
		t.Errorf("in an hour the time went on by %s", got)
	}
}

func TestAClockFarAheadIsPutRightByASignedTime(t *testing.T) {
	g := newGateway(t)
	g.off = century
	c := g.boot()
	if err := g.node(c); !errors.Is(err, pki.ErrExpired) {
		t.Fatalf("in 2090: %v, expected every certificate to look expired", err)
	}
	if err := c.Ask(t.Context(), []string{"127.0.0.1:1", g.w.addr}); err != nil {
		t.Fatal(err)
	}
	if d := c.Now().Sub(g.w.now()).Abs(); d > time.Minute {
		t.Errorf("the time is %s off", d)
	}
	if err := g.node(c); err != nil {
		t.Errorf("after the correction: %v", err)
	}
	if b, err := os.ReadFile(g.file); err != nil || string(b) > "2031" {
		t.Errorf("stored %q, %v: a wrong time must not become the floor", b, err)
	}
	// Somebody sets the clock: the correction ends with the next word of a hub.
	g.off = 0
	c.Heard(g.w.now())
	if d := c.Now().Sub(g.w.now()).Abs(); d > time.Second {
		t.Errorf("with a clock that was set the time is %s off", d)
	}
}

// What lives until a time must not be over because the clock was put right: who keeps such things is told before a move
// forward, and after one back.
func TestAMoveOfTheClockEndsNothingByItself(t *testing.T) {
	for _, off := range []time.Duration{-3 * time.Hour, 3 * time.Hour, -century, 30 * time.Second} {
		g := newGateway(t)
		g.off = off
		var c *clock.Clock
		var moved, at []time.Duration
		c = clock.New(clock.Deps{System: g.system, File: g.file, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
			Moved: func(by time.Duration) { moved, at = append(moved, by), append(at, c.Now().Sub(g.w.now())) }})
		c.Heard(g.w.now())
		c.Heard(g.w.now())
		switch {
		case off.Abs() < time.Minute:
			if len(moved) != 0 {
				t.Errorf("a clock that is %s off was moved by %v", off, moved)
			}
		case len(moved) != 1 || moved[0] != -off || at[0] != min(off, 0):
			t.Errorf("a clock that is %s off: told of moves by %v when it was %v off, expected one of %s, told at %s off", off, moved, at, -off, min(off, 0))
		}
	}
}

func TestATimeAfterTheCAWasReplacedIsBelieved(t *testing.T) {
	g := newGateway(t)
	if _, _, err := g.w.store.RotateCA(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	g.w.add(0)
	g.off = century
	c := g.boot()
	if err := c.Ask(t.Context(), []string{g.w.addr}); err != nil {
		t.Errorf("signed by the CA's successor: %v", err)
	}
}

func TestATimeThatNobodyTrustedHasSignedChangesNothing(t *testing.T) {
	g := newGateway(t)
	evil, err := pki.NewCA("evil", day, g.w.now)
	if err != nil {
		t.Fatal(err)
	}
	at := g.w.now().Add(-20 * 365 * day).UnixMilli()
	own := g.w.trusted.Authority().CA
	sign := func(ca *pki.CA, message []byte) []byte {
		sig, err := ca.Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	for name, answer := range map[string]func(nonce string) join.SignedTime{
		"another CA": func(nonce string) join.SignedTime {
			return join.SignedTime{UnixMS: at, Signature: sign(evil, join.TimeMessage(nonce, at)), Chain: string(evil.CertPEM())}
		},
		"another CA with the right one beside it": func(nonce string) join.SignedTime {
			return join.SignedTime{UnixMS: at, Signature: sign(evil, join.TimeMessage(nonce, at)), Chain: string(append(evil.CertPEM(), own.CertPEM()...))}
		},
		"an answer to an older question": func(string) join.SignedTime {
			return join.SignedTime{UnixMS: at, Signature: sign(own, join.TimeMessage("old", at)), Chain: string(own.CertPEM())}
		},
		"another time than the signed one": func(nonce string) join.SignedTime {
			return join.SignedTime{UnixMS: at, Signature: sign(own, join.TimeMessage(nonce, at+1)), Chain: string(own.CertPEM())}
		},
		"no signature": func(string) join.SignedTime { return join.SignedTime{UnixMS: at, Chain: string(own.CertPEM())} },
	} {
		c := g.boot()
		before := c.Now()
		addr := serve(t, g.w, func(r *http.Request) any { return answer(r.URL.Query().Get("nonce")) })
		if err := c.Ask(t.Context(), []string{addr}); !errors.Is(err, join.ErrTime) {
			t.Errorf("%s: %v, expected %v", name, err, join.ErrTime)
		}
		if !c.Now().Equal(before) {
			t.Errorf("%s: the time changed from %s to %s", name, before, c.Now())
		}
	}
}
