package edgecore

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/edge/store"
)

// joined is the configuration of a node that has its certificate since ten days.
func joined(t *testing.T, name string) *v1alpha1.EdgeCore {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewCA("edge CA", 365*24*time.Hour, func() time.Time { return time.Now().AddDate(0, 0, -10) })
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	pair, err := ca.IssueNode(name, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName, cfg.DataDir, cfg.Cloud.Servers = name, filepath.Join(dir, "data"), []string{"127.0.0.1:1"}
	cfg.Cloud.CAFile, cfg.Cloud.CertFile, cfg.Cloud.KeyFile = filepath.Join(dir, pki.CACertFile), filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
	if err := pair.Save(cfg.Cloud.CertFile, cfg.Cloud.KeyFile); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// A gateway that joined with a clock from long ago has a certificate from then: a newer program knows better.
func TestTheTimeIsNotBeforeTheProgramWasMade(t *testing.T) {
	built := time.Now().Add(-time.Hour) // the certificate is of ten days ago
	e, err := New(t.Context(), joined(t, "edge-1"), Deps{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(0, 0) }, Built: built})
	if err != nil {
		t.Fatal(err)
	}
	if now := e.clock.Now(); !now.Equal(built) {
		t.Errorf("in 1970 the time is %s, expected that at which the program was made, %s", now, built)
	}
	if err := e.store.Close(); err != nil {
		t.Error(err)
	}
}

// An event that was queued while the clock was hours behind is delivered, though its life is an hour.
func TestAClockThatIsPutRightExpiresNoEvent(t *testing.T) {
	for _, off := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		e, err := New(t.Context(), joined(t, "edge-1"), Deps{Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(off) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- e.store.Start(ctx) }()
		queued := object.Outgoing{Key: object.Key{Kind: object.Events, Namespace: "default", Name: "boom"}, Op: object.OpCreate, Body: []byte("x"),
			Class: object.ClassEvent, Created: e.clock.Now(), Expires: e.clock.Now().Add(time.Hour), Policy: object.DropOldest}
		if _, err := e.store.Apply(t.Context(), object.Change{Outgoing: []object.Outgoing{queued}}); err != nil {
			t.Fatal(err)
		}
		e.clock.Heard(time.Now())
		var left []time.Duration
		if err := e.store.Queue(t.Context(), func(h store.Head) error { left = append(left, time.Until(h.Expires)); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 || left[0] > time.Hour || left[0] < 50*time.Minute {
			t.Errorf("a clock that was %s off was put right: the queued event lives for %v, expected an hour", off, left)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := e.store.Close(); err != nil {
			t.Error(err)
		}
	}
}
