package devices

import (
	"context"
	"fmt"
	"log/slog"
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

	mu     sync.Mutex
	users  string
	events []string
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
	s, err := store.Open(w.t.Context(), store.Config{Dir: w.dir, NodeName: "edge-1", EventQuota: 64 << 10, CopyInterval: time.Hour}, store.Deps{Log: slog.New(slog.DiscardHandler)})
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
	u := &mqttUsers{key: object.Key{Kind: object.Secrets, Namespace: "plant", Name: "users"}, node: "edge-1", store: s, set: w.set, shown: w.shown,
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
	deadline := time.Now().Add(20 * time.Second)
	for {
		w.mu.Lock()
		found, said := w.users, strings.Join(w.events, "\n")
		n := len(w.events)
		w.mu.Unlock()
		if found == users && n == events {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: users %q and %d events, expected %q and %d:\n%s", what, found, n, users, events, said)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestMQTTUsersAreAsTheirSecretSays(t *testing.T) {
	w := &usersWorld{t: t, dir: t.TempDir()}
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
