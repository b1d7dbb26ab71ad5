package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// script is a runtime whose pulls last until they are told how they end.
type script struct {
	mu        sync.Mutex
	pulls     map[string][]chan error // by image, the oldest first
	asked     int                     // pulls that began
	downloads map[string]int64
	mute      bool // it does not tell of downloads
}

func (s *script) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	end := make(chan error, 1)
	s.mu.Lock()
	s.asked++
	s.pulls[r.Image.Image] = append(s.pulls[r.Image.Image], end)
	s.mu.Unlock()
	select {
	case err := <-end:
		if err != nil {
			return nil, err
		}
		return &runtimeapi.PullImageResponse{ImageRef: "new " + r.Image.Image}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (s *script) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: r.Image.Image}}, nil
}

func (s *script) Downloads(context.Context) (map[string]int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mute {
		return nil, status.Error(codes.Unimplemented, "unknown service")
	}
	out := map[string]int64{}
	for k, v := range s.downloads {
		out[k] = v
	}
	return out, nil
}

// begun is how many pulls there were.
func (s *script) begun() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// end ends the oldest pull of an image.
func (s *script) end(image string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pulls[image]) == 0 {
		panic("no pull of " + image + " runs")
	}
	s.pulls[image][0] <- err
	s.pulls[image] = s.pulls[image][1:]
}

func (s *script) set(ref string, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.downloads[ref] = offset
}

func (s *script) unset(ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.downloads, ref)
}

// bench is a puller on a script, with images that were pulled without credentials: "old h/NAME" for each.
type bench struct {
	*script
	*puller
	t     *testing.T
	heard *heardOf
}

func newBench(t *testing.T, here ...string) *bench {
	t.Helper()
	b := &bench{script: &script{pulls: map[string][]chan error{}, downloads: map[string]int64{}}, t: t, heard: &heardOf{}}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	p := &proofs{memory: &notes{}, log: log, now: time.Now}
	if err := p.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range here {
		p.grant(t.Context(), name, nil, "old "+name)
	}
	c := Config{}.withDefaults()
	b.puller = newPuller(pullDeps{runtime: b.script, proofs: p, log: log, metrics: newMetrics(nil), served: b.heard.add, now: time.Now,
		limits: pullLimits{patience: c.Patience, pause: c.Pause, hurry: c.Hurry, silence: c.Silence, places: 1, fallBack: true}})
	return b
}

type outcome struct {
	ref  string
	err  error
	took time.Duration
}

// ask pulls beside the test.
func (b *bench) ask(ctx context.Context, image string) <-chan outcome {
	c := make(chan outcome, 1)
	began := time.Now()
	go func() {
		r, err := b.pull(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		c <- outcome{r.GetImageRef(), err, time.Since(began)}
	}()
	synctest.Wait()
	return c
}

func (b *bench) expect(c <-chan outcome, ref string, took time.Duration) {
	b.t.Helper()
	if o := <-c; o.err != nil || o.ref != ref || o.took < took || o.took > took+time.Second {
		b.t.Errorf("expected %q after %v, found %q after %v, %v", ref, took, o.ref, o.took, o.err)
	}
}

// over ends what still runs, as the end of the service does.
func (b *bench) over() { b.puller.end() }

func TestASilentRegistryIsWaitedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "h.example/a", "h.example/b", "other.example/a")
		defer b.over()
		b.expect(b.ask(t.Context(), "h.example/a"), "old h.example/a", 15*time.Second)
		b.expect(b.ask(t.Context(), "h.example/a"), "old h.example/a", 0) // it joins the pull that goes on
		b.expect(b.ask(t.Context(), "h.example/b"), "old h.example/b", 2*time.Second)
		b.expect(b.ask(t.Context(), "other.example/a"), "old other.example/a", 15*time.Second)
		if n := b.begun(); n != 3 {
			t.Errorf("%d pulls reached the runtime, expected 3", n)
		}
		// The one that goes on hears of it.
		b.script.end("h.example/a", nil)
		synctest.Wait()
		b.proofs.grant(t.Context(), "h.example/c", nil, "old h.example/c")
		b.expect(b.ask(t.Context(), "h.example/c"), "old h.example/c", 15*time.Second) // it was heard since
		c := b.ask(t.Context(), "h.example/b")
		b.expect(c, "old h.example/b", 0)
		b.script.end("h.example/b", status.Error(codes.Unknown, "x: 403 Forbidden"))
		synctest.Wait()
		again := b.ask(t.Context(), "h.example/b")
		time.Sleep(time.Second)
		b.script.end("h.example/b", status.Error(codes.Unknown, "dial tcp: no such host"))
		if o := <-again; o.err == nil {
			t.Errorf("a no was forgotten: %q serves", o.ref)
		}
		c = b.ask(t.Context(), "h.example/a")
		b.script.end("h.example/a", status.Error(codes.Unknown, "dial tcp: no such host"))
		b.expect(c, "new h.example/a", 0) // what the pull that went on brought
		if n := len(b.heard.list()); n != 7 {
			t.Errorf("told of %d images that served, expected 7", n)
		}
	})
}

func TestADownloadThatMovesIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "h/a")
		defer b.over()
		c := b.ask(t.Context(), "h/a")
		time.Sleep(10 * time.Second)
		for i := range 4 {
			b.set("layer", int64(i))
			time.Sleep(50 * time.Second)
		}
		b.unset("layer") // all is here: it is unpacked
		time.Sleep(80 * time.Second)
		b.script.end("h/a", nil)
		b.expect(c, "new h/a", 290*time.Second)

		c = b.ask(t.Context(), "h/a") // a download that rests
		time.Sleep(10 * time.Second)
		b.set("layer", 1)
		b.expect(c, "new h/a", 70*time.Second)
		b.script.end("h/a", errors.New("x"))
		synctest.Wait()

		c = b.ask(t.Context(), "h/a") // one without end
		go func() {
			for i := range 400 {
				time.Sleep(time.Second)
				b.set("layer", int64(i+2))
			}
		}()
		b.expect(c, "new h/a", longestWait)
		b.script.end("h/a", nil)
		time.Sleep(10 * time.Minute)
	})
}

func TestARuntimeThatTellsNoDownloadsHasItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "h/a")
		defer b.over()
		b.mute = true
		b.expect(b.ask(t.Context(), "h/a"), "old h/a", 15*time.Second)
		c := b.ask(t.Context(), "h/none") // with nothing else, it takes what it takes
		time.Sleep(time.Hour)
		b.script.end("h/none", nil)
		b.expect(c, "new h/none", time.Hour)
		b.puller.mu.Lock()
		defer b.puller.mu.Unlock()
		if len(b.flights) != 0 {
			t.Errorf("a pull that nobody waits for goes on for ever: %v", b.flights)
		}
	})
}

func TestDownloadsTakeTurnsAndSilentOnesGiveTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, "h/here")
		defer b.over()
		first, second := b.ask(t.Context(), "h/1"), b.ask(t.Context(), "i/2")
		here := b.ask(t.Context(), "h/here")
		if n := b.begun(); n != 2 {
			t.Fatalf("%d pulls run, expected the first and the one whose image is here", n)
		}
		b.script.end("h/here", nil)
		b.expect(here, "new h/here", 0)
		time.Sleep(14 * time.Second)
		if n := b.begun(); n != 2 {
			t.Fatalf("%d pulls began, expected the second to wait for its turn", n)
		}
		time.Sleep(2 * time.Second)
		b.script.end("i/2", nil)
		b.expect(second, "new i/2", 16*time.Second)
		// The silent one is ended in the end.
		select {
		case o := <-first:
			if status.Code(o.err) != codes.DeadlineExceeded || o.took.Round(time.Second) != stalledAfter {
				t.Errorf("after %v: %v, expected the end of a pull of which nothing moves after %v", o.took, o.err, stalledAfter)
			}
		case <-time.After(time.Hour):
			t.Error("a pull of which nothing moves has no end")
		}
	})
}

func TestAPullThatNobodyWantsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.over()
		ctx, cancel := context.WithCancel(t.Context())
		one, two := b.ask(ctx, "h/a"), b.ask(t.Context(), "h/a")
		if n := b.begun(); n != 1 {
			t.Fatalf("%d pulls began for one image", n)
		}
		cancel()
		if o := <-one; status.Code(o.err) != codes.Canceled {
			t.Errorf("found %v", o.err)
		}
		b.script.end("h/a", nil) // the other still waits
		b.expect(two, "new h/a", 0)

		ctx, cancel = context.WithCancel(t.Context())
		three := b.ask(ctx, "h/a")
		cancel()
		<-three
		synctest.Wait()
		b.puller.mu.Lock()
		defer b.puller.mu.Unlock()
		if len(b.flights) != 0 || len(b.puller.silent) != 0 {
			t.Errorf("flights %v, registries that are taken for silent %v", b.flights, b.puller.silent)
		}
	})
}

func TestRegistriesAreToldApart(t *testing.T) {
	for name, want := range map[string]string{
		"busybox": "", "library/busybox:1": "", "localhost/a": "localhost", "a.b/c:v1": "a.b", "a:5000/b": "a:5000", "10.0.0.1/b@sha256:1": "10.0.0.1",
	} {
		if got := registryOf(name); got != want {
			t.Errorf("%s: expected %s, found %s", name, want, got)
		}
	}
}

func TestProofsAreBounded(t *testing.T) {
	memory := &notes{}
	at := time.Unix(0, 0)
	p := &proofs{memory: memory, log: slog.New(slog.NewTextHandler(io.Discard, nil)), now: func() time.Time { at = at.Add(time.Second); return at }}
	ctx := t.Context()
	if err := p.load(ctx); err != nil {
		t.Fatal(err)
	}
	who := func(i int) credentials {
		return credentialsOf(&runtimeapi.AuthConfig{Username: "u", Password: fmt.Sprint(i)})
	}
	for i := range maxProofs + 2 {
		p.grant(ctx, "a", who(i), "r")
	}
	if p.allowed("a", who(1)) != "" || p.allowed("a", who(2)) != "r" || p.allowed("a", who(maxProofs+1)) != "r" {
		t.Errorf("expected the oldest two of %d credentials to be forgotten", maxProofs+2)
	}
	for i := range maxNames {
		p.grant(ctx, fmt.Sprint("n", i), nil, "r")
	}
	if p.count() != maxNames || len(memory.values) != maxNames || p.allowed("a", who(2)) != "" || p.allowed("n0", nil) != "r" {
		t.Errorf("expected the oldest name to be forgotten, found %d names, %d notes", p.count(), len(memory.values))
	}
	p.grant(ctx, "b", nil, "r1")
	p.grant(ctx, "b", who(1), "r2")
	p.forget(ctx, "r1")
	if p.allowed("b", nil) != "" || p.allowed("b", who(1)) != "r2" {
		t.Error("expected the proof of the removed image to be forgotten, and no other")
	}
	p.revoke(ctx, "b", who(2)) // it proved nothing
	p.revoke(ctx, "b", who(1))
	if p.allowed("b", who(1)) != "" {
		t.Error("what was revoked is allowed")
	}
	if a, b := who(1), credentialsOf(&runtimeapi.AuthConfig{Username: "u1"}); string(a) == string(b) {
		t.Error("credentials that differ are spelled alike")
	}
	if credentialsOf(&runtimeapi.AuthConfig{ServerAddress: "h"}) != nil {
		t.Error("an address is no credential")
	}

	memory.full = true
	p.grant(ctx, "c", nil, "r")
	if p.allowed("c", nil) != "r" {
		t.Error("a full disk keeps a proof from this process too")
	}
	memory.values = map[string]string{"good": `{"salt":"AA==","proofs":[{"ref":"r"}]}`, "bad": "{"}
	if err := p.load(ctx); err != nil || p.allowed("good", nil) != "r" || p.count() != 1 {
		t.Errorf("one note that cannot be read: found %d records, %v", p.count(), err)
	}
}

// What everybody may have is still not for those whom the registry said no to later, and that costs nobody else anything.
func TestANoOutlastsWhatEveryoneMayHave(t *testing.T) {
	memory := &notes{}
	at := time.Unix(0, 0)
	load := func() *proofs {
		t.Helper()
		p := &proofs{memory: memory, log: testLog(t), now: func() time.Time { at = at.Add(time.Second); return at }}
		if err := p.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	ctx, p := t.Context(), load()
	who := func(i int) credentials {
		return credentialsOf(&runtimeapi.AuthConfig{Username: "u", Password: fmt.Sprint(i)})
	}
	expect := func(step string, c credentials, ref string) {
		t.Helper()
		if got := p.allowed("a", c); got != ref {
			t.Errorf("%s: %v are allowed %q, expected %q", step, c, got, ref)
		}
	}
	p.revoke(ctx, "a", who(1)) // of what nobody was given
	p.grant(ctx, "a", nil, "open")
	p.grant(ctx, "a", who(1), "own")
	p.revoke(ctx, "a", who(1))
	p.revoke(ctx, "a", who(2))
	p = load()
	for i, ref := range []string{"open", "", "", "open"} { // the first and the last were not refused
		expect("refused, after a restart", who(i), ref)
	}
	expect("others were refused", nil, "open")
	if refs := p.refs("a"); len(refs) != 1 || refs[0] != "open" {
		t.Errorf("images %q could serve, expected the one", refs)
	}
	writes := memory.writes
	p.revoke(ctx, "a", who(1))
	p.grant(ctx, "a", who(3), "own")
	p.grant(ctx, "a", who(3), "own")
	if memory.writes != writes+1 {
		t.Errorf("%d writes for one thing that is new", memory.writes-writes)
	}

	p.grant(ctx, "a", who(1), "own")
	expect("given again", who(1), "own")
	p.grant(ctx, "a", nil, "open")
	expect("open since", who(2), "open")

	for i := range 2 * maxProofs {
		p.revoke(ctx, "a", who(100+i))
	}
	expect("many were refused", nil, "open")
	expect("many were refused", who(3), "own")
	expect("the last of many", who(100+2*maxProofs-1), "")
	if n := len(p.records["a"].Proofs); n != maxProofs+3 {
		t.Errorf("%d proofs and noes, expected three and %d", n, maxProofs)
	}
	p.revoke(ctx, "a", nil)
	if n := len(p.records["a"].Proofs); n != 2 {
		t.Errorf("%d proofs of what is not open any more, expected two and no no", n)
	}
	p.grant(ctx, "b", nil, "only")
	p.revoke(ctx, "b", who(1))
	p.forget(ctx, "only")
	if p.count() != 1 {
		t.Errorf("%d names, expected that one of which there are noes alone is forgotten", p.count())
	}
}

func TestDownloadsOfARuntimeAreRead(t *testing.T) {
	// ListStatusesResponse{statuses: {started_at, ref: "layer-1", offset: 300, total: 500}, {ref: "x"}}
	b := []byte("\x0a\x13\x0a\x02\x08\x01\x1a\x07layer-1\x20\xac\x02\x28\xf4\x03\x0a\x03\x1a\x01x")
	got, err := parseDownloads(b)
	if err != nil || len(got) != 2 || got["layer-1"] != 300 || got["x"] != 0 {
		t.Errorf("found %v, %v", got, err)
	}
	for n := range b {
		if got, err := parseDownloads(b[:n]); err == nil && n != 0 && n != 21 {
			t.Errorf("the first %d bytes: expected an error, found %v", n, got)
		}
	}
}
