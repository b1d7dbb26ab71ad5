package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/mqtt"
	"github.com/tether-edge/tether/edge/store"
)

const (
	annsHash = "$2a$04$7dQ8cVYyJm3Y8yq2bK0u0eY8l2J6l6v2r4b0mJ8y5m0q8u3w2x4yS"
	goodList = "- name: ann\n  passwordHash: " + annsHash + "\n  acl:\n  - {filter: a/#, read: true}\n"
)

// userSecret is the Secret that a pod of the node refers to.
func userSecret(t *testing.T, rv uint64, data map[string]string) store.Incoming {
	t.Helper()
	o := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, Data: map[string][]byte{},
		ObjectMeta: metav1.ObjectMeta{Namespace: "plant", Name: "users", UID: types.UID("u"), ResourceVersion: object.FormatRV(rv)}}
	for k, v := range data {
		o.Data[k] = []byte(v)
	}
	kind, _ := object.Lookup(object.Secrets)
	body, err := object.Encode(kind, o)
	if err != nil {
		t.Fatal(err)
	}
	return store.Incoming{Key: object.KeyOf(object.Secrets, o), Version: object.Version{UID: "u", RV: rv}, Body: body}
}

// usersWorld is a store with what follows the Secret, and stands for the broker.
type usersWorld struct {
	t     *testing.T
	dir   string
	store *store.Store
	stop  func()
	// seal and secret are those of the next start: which key seals, and the name of the Secret; "" for none.
	seal   sealer
	secret string

	mu     sync.Mutex // guards what follows
	users  string
	events []string
	full   bool // nothing can be written
	failed int  // writes
}

// A sealer seals with the key of that id. Others it does not have.
type sealer int64

func turned(b []byte) []byte {
	b = append([]byte{}, b...)
	slices.Reverse(b)
	return b
}

func (s sealer) Seal(plain, _ []byte) (int64, []byte)             { return int64(s), turned(plain) }
func (s sealer) Unseal(_ int64, sealed, _ []byte) ([]byte, error) { return turned(sealed), nil }
func (s sealer) Keys() []int64                                    { return []int64{int64(s)} }
func (s sealer) Keep([]int64) error                               { return nil }

func newUsersWorld(t *testing.T) *usersWorld {
	return &usersWorld{t: t, dir: t.TempDir(), seal: 1, secret: "users"}
}

func (w *usersWorld) write(ctx context.Context, notes []store.Note, out ...object.Outgoing) error {
	w.mu.Lock()
	full := w.full
	if full {
		w.failed++
	}
	w.mu.Unlock()
	if full {
		return object.ErrFull
	}
	return w.store.Keep(ctx, notes, out...)
}

// keeps waits until the notes of MQTT's users are these, by key.
func (w *usersWorld) keeps(what string, notes map[string]string) {
	w.t.Helper()
	eventually(w.t, what, func() error {
		found := map[string]string{}
		err := w.store.Notes(w.t.Context(), bucketMQTTUsers, func(key string, value []byte) error {
			found[key] = string(value)
			return nil
		})
		if err == nil && !maps.Equal(found, notes) {
			err = fmt.Errorf("%q is kept, expected %q", found, notes)
		}
		return err
	})
}

func (w *usersWorld) set(users []mqtt.User) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var said []string
	for _, u := range users {
		if u.Name == "" {
			return fmt.Errorf("users[0]: expected a name")
		}
		said = append(said, fmt.Sprintf("%s %s %v", u.Name, u.Hash, u.ACL))
	}
	w.users = strings.Join(said, ", ")
	return nil
}

func (w *usersWorld) shown(_ context.Context, o object.Outgoing) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	kind, _ := object.Lookup(object.Events)
	e, err := object.Decode(kind, o.Body)
	if err == nil {
		w.events = append(w.events, e.(*corev1.Event).Reason+": "+e.(*corev1.Event).Message)
	}
	return err
}

func (w *usersWorld) start() {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Config{Dir: w.dir, NodeName: "edge-1", EventQuota: 64 << 10, CopyInterval: time.Hour}, store.Deps{Log: slog.New(slog.DiscardHandler),
		Seal: func(context.Context) (store.Sealer, error) { return w.seal, nil }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Start(ctx); err != nil {
			w.t.Error(err)
		}
	})
	u := &mqttUsers{key: object.Key{Kind: object.Secrets, Namespace: "plant", Name: w.secret}, node: "edge-1", store: s, write: w.write, set: w.set, shown: w.shown,
		log: slog.New(slog.DiscardHandler), now: time.Now}
	running.Go(func() { _ = u.Start(ctx) })
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() { w.stop() })
}

func (w *usersWorld) comes(in ...store.Incoming) {
	w.t.Helper()
	if err := w.store.ApplyBatch(w.t.Context(), in); err != nil {
		w.t.Fatal(err)
	}
}

// has waits for users and for how many events there were.
func (w *usersWorld) has(what, users string, events int) {
	w.t.Helper()
	eventually(w.t, what, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.users != users || len(w.events) != events {
			return fmt.Errorf("users %q and %d events, expected %q and %d:\n%s", w.users, len(w.events), users, events, strings.Join(w.events, "\n"))
		}
		return nil
	})
}

func TestMQTTUsersAreAsTheirSecretSays(t *testing.T) {
	w := newUsersWorld(t)
	w.start()
	const ann = "ann " + annsHash + " [{a/# true false}]"
	w.comes(userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: goodList}))
	w.has("the Secret came", ann, 0)
	for i, bad := range []map[string]string{
		{"other": goodList},
		{v1alpha1.MQTTUsersKey: "{"},
		{v1alpha1.MQTTUsersKey: "ann: secret"},
		{v1alpha1.MQTTUsersKey: "- name: ann\n  password: hunter2\n"},
		{v1alpha1.MQTTUsersKey: "- name: ann\n  passwordHash: 12345\n"},
		{v1alpha1.MQTTUsersKey: "- passwordHash: x\n"},
	} {
		w.comes(userSecret(t, uint64(2+i), bad))
		w.has(fmt.Sprint("bad content ", i), ann, i+1)
	}
	w.mu.Lock()
	for _, e := range w.events {
		if !strings.HasPrefix(e, "MQTTUsersRefused: node edge-1 goes on") || strings.Contains(e, "hunter2") || strings.Contains(e, "12345") {
			t.Errorf("the event says %q", e)
		}
	}
	w.mu.Unlock()

	// The last good ones are those of the node also after a restart, whatever the Secret says by then.
	w.stop()
	w.set(nil)
	w.start()
	w.has("after a restart", ann, 7)
	w.comes(userSecret(t, 20, map[string]string{v1alpha1.MQTTUsersKey: "[]"}))
	w.has("a list of nobody", "", 7)
	w.comes(userSecret(t, 21, map[string]string{v1alpha1.MQTTUsersKey: goodList}))
	w.has("mended", ann, 7)

	key := object.Key{Kind: object.Secrets, Namespace: "plant", Name: "users"}
	w.comes(store.Incoming{Key: key, Cause: object.CauseNodeGone})
	w.comes(userSecret(t, 22, map[string]string{v1alpha1.MQTTUsersKey: strings.Replace(goodList, "ann", "bob", 1)}))
	w.has("the node is back", strings.Replace(ann, "ann", "bob", 1), 7)
	w.comes(store.Incoming{Key: key, Cause: object.CauseOutOfInterest})
	w.has("no pod refers to it any more", "", 7)
	w.stop()
	w.start()
	w.has("after another restart", "", 7)
}

const (
	inUse = "ann " + annsHash + " [{a/# true false}]"
	noted = `[{"name":"ann","passwordHash":"` + annsHash + `","acl":[{"filter":"a/#","read":true,"write":false}]}]`
)

// Of a Secret the disk has names, hashes and rights, and those no longer than its name is in the configuration.
func TestNothingButUsersIsKeptOfTheirSecret(t *testing.T) {
	w := newUsersWorld(t)
	w.start()
	const planted = "planted-Zq7fWv3kXr"
	users := userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: goodList + "# " + planted + "\n", "other": planted})
	w.comes(users)
	w.has("the Secret came", inUse, 0)
	key := object.Key{Kind: object.Secrets, Namespace: "plant", Name: "users"}.String()
	w.keeps("the Secret came", map[string]string{key: noted})
	files, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if body, err := os.ReadFile(filepath.Join(w.dir, f.Name())); err == nil && strings.Contains(string(body), planted) {
			t.Errorf("%s shows what else the Secret has", f.Name())
		}
	}
	// A former version kept it all.
	if err := w.store.Keep(t.Context(), []store.Note{{Bucket: bucketMQTTUsers, Key: key, Value: []byte(goodList + "# comment\n")}}); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.set(nil)
	w.start()
	w.has("after a restart", inUse, 0)
	w.keeps("after a restart", map[string]string{key: noted})

	for _, other := range []string{"renamed", ""} {
		if err := w.store.Keep(t.Context(), []store.Note{{Bucket: bucketMQTTUsers, Key: key, Value: []byte(noted)}}); err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.set(nil)
		w.secret = other
		w.start()
		w.keeps("with the Secret "+other, map[string]string{})
		w.has("with the Secret "+other, "", 0)
	}
}

// A list that could not be kept is kept as soon as there is room.
func TestUsersThatFoundNoRoomAreKeptLater(t *testing.T) {
	w := newUsersWorld(t)
	w.full = true
	w.start()
	w.comes(userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: goodList}))
	w.has("the Secret came to a full disk", inUse, 0)
	eventually(t, "a write that fails", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.full = w.failed == 0; w.full {
			return errors.New("there was none")
		}
		return nil
	})
	w.keeps("there is room", map[string]string{object.Key{Kind: object.Secrets, Namespace: "plant", Name: "users"}.String(): noted})
}

// A Secret whose key is lost says nothing of its users: they stay until the cloud has said whether it is still there.
func TestUsersOfALostKeyStayUntilTheNextSync(t *testing.T) {
	for name, again := range map[string]bool{"sent again": true, "gone": false} {
		t.Run(name, func(t *testing.T) {
			w := newUsersWorld(t)
			w.start()
			w.comes(userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: goodList}))
			w.has("the Secret came", inUse, 0)
			synced := func() {
				if err := w.store.MarkSynced(t.Context(), []object.ID{object.Secrets}); err != nil {
					t.Fatal(err)
				}
			}
			synced()
			w.stop()
			w.set(nil)
			w.seal = 2
			w.start()
			w.has("without the key", inUse, 0)
			if again {
				w.comes(userSecret(t, 1, map[string]string{v1alpha1.MQTTUsersKey: strings.Replace(goodList, "ann", "bob", 1)}))
				w.has("the cloud has it", strings.Replace(inUse, "ann", "bob", 1), 0)
				synced()
				return
			}
			synced()
			w.has("the cloud does not have it", "", 0)
			w.keeps("the cloud does not have it", map[string]string{})
		})
	}
}
