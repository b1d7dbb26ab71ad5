package store

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tether-edge/tether/common/object"
)

// A key that is lost costs what it sealed and nothing else: the cloud sends that again, and until then nobody is told that
// it does not exist.
func TestALostKeyCostsWhatItSealedAndNothingElse(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	plant(t, s)
	copyNow(t, s)
	stop()

	lost := sealer(2)
	s, stop = running(t, cfg, Deps{Seal: lost.open, Log: testLog(t)})
	if st := s.Status(); st.Damaged != "" || st.Unreadable != 16 || !s.EverSynced() {
		t.Fatalf("status %+v, synced %v; expected 13 Secrets and 3 tokens that cannot be opened in a store that is sound", st, s.EverSynced())
	}
	s.mustGet(t, podKey("a"))
	if r, ok, err := s.Get(t.Context(), secretKey("cred")); err != nil || !ok || !r.Sealed || r.Body != nil {
		t.Errorf("got %+v, %v, %v; expected a record that says that it is sealed", r, ok, err)
	}
	if _, _, ok, err := s.LoadToken(t.Context(), "k"); ok || err != nil {
		t.Errorf("a token that cannot be opened: %v, %v; expected none", ok, err)
	}
	if keys, err := s.TokenKeys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("tokens %q, %v; expected none that could be loaded", keys, err)
	}
	digests, err := s.Digests(t.Context())
	if err != nil || digests[object.Secrets] != (object.Digest{}) {
		t.Errorf("digest %+v, %v; expected that the cloud is told of no Secrets", digests[object.Secrets], err)
	}
	if len(lost.kept) == 0 || !slices.Contains(lost.kept, 1) {
		t.Errorf("keys in use %v: the lost one may come back, and must not be forgotten yet", lost.kept)
	}
	stop()

	// The key is there again, as a TPM may be whose driver came up late: nothing was lost.
	s, stop = running(t, cfg, Deps{Seal: sealer(2, 1).open})
	mustHavePlanted(t, s)
	stop()
	s, stop = running(t, cfg, Deps{Seal: sealer(3).open})
	_, rv, err := s.List(t.Context(), object.Secrets, "")
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.Watch(t.Context(), object.Secrets, rv)
	if err != nil {
		t.Fatal(err)
	}
	// The cloud sends what it has, at the version that was there before.
	s.mustBatch(t, upsert(t, object.Secrets, secret("cred", 42, planted+"-second")))
	if e := next(t, events); e.Type != object.Added || e.Record.Key.Name != "cred" {
		t.Errorf("event %s, expected the Secret as a new one", describe(e))
	}
	s.mustBatch(t, gone(secretKey("s1"), object.CauseDeleted))
	s.mustBeAbsent(t, secretKey("s1"))
	if r := s.mustGet(t, secretKey("s2")); !r.Sealed {
		t.Error("a Secret of a lost key can be read")
	}
	s.markAll(t)
	if got := s.password(t, "cred"); got != planted+"-second" {
		t.Errorf("Secret cred is %q", got)
	}
	s.mustBeAbsent(t, secretKey("s2"))
	stop()
	mustHide(t, cfg.Dir)
}

// What held pods need stays also while its key is away: the cloud has none of it any more, and the key may come back.
func TestWhatHeldPodsNeedStaysWhileItsKeyIsAway(t *testing.T) {
	cfg := testConfig(t.TempDir())
	s, stop := running(t, cfg, Deps{Seal: sealer(1).open})
	other := pod("b", "u2", 60)
	other.Spec.Volumes[0].Secret.SecretName = "own"
	live := pod("c", "u3", 61) // its Secret goes before it
	live.Spec.Volumes[0].Secret.SecretName = "early"
	s.mustBatch(t, upsert(t, object.Pods, pod("a", "u1", 50)), upsert(t, object.Pods, other), upsert(t, object.Pods, live), upsert(t, object.Secrets, secret("early", 54, "fourth")),
		upsert(t, object.Secrets, secret("cred", 51, "first")), upsert(t, object.Secrets, secret("own", 52, "second")), upsert(t, object.Secrets, secret("left", 53, "third")))
	for key, uid := range map[string]string{"a": "u1", "free": ""} {
		if err := s.SaveToken(t.Context(), key, uid, []byte("token"), time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s.markAll(t)
	// The node is gone in the cloud. Of one pod the edge learns so with the key, of the other without.
	s.mustBatch(t, gone(podKey("a"), object.CauseNodeGone), gone(secretKey("cred"), object.CauseNodeGone), gone(secretKey("early"), object.CauseOutOfInterest))
	stop()

	s, stop = running(t, cfg, Deps{Seal: sealer(2).open})
	next := s.NextSync()
	s.mustBatch(t, gone(podKey("b"), object.CauseNodeGone))
	s.markAll(t)
	select {
	case <-next:
	default:
		t.Error("who waits for the next sync was not told of it")
	}
	s.mustBeAbsent(t, secretKey("left"))
	for _, name := range []string{"cred", "own", "early"} {
		if r := s.mustGet(t, secretKey(name)); !r.Sealed {
			t.Errorf("Secret %s can be read without its key", name)
		}
	}
	if n := testutil.ToFloat64(s.metrics.unreadable); n != 4 {
		t.Errorf("%v rows are counted, expected three Secrets and a token", n)
	}
	stop()

	s, _ = running(t, cfg, Deps{Seal: sealer(2, 1).open})
	if a, b := s.password(t, "cred"), s.password(t, "own"); a != "first" || b != "second" {
		t.Errorf("the Secrets are %q and %q", a, b)
	}
	if _, _, ok, err := s.LoadToken(t.Context(), "a"); !ok || err != nil {
		t.Errorf("the token of a held pod: %v, %v", ok, err)
	}
	if _, _, ok, err := s.LoadToken(t.Context(), "free"); ok || err != nil {
		t.Errorf("a token of no pod: %v, %v; expected none", ok, err)
	}
}
