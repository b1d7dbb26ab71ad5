package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	recordutil "k8s.io/client-go/tools/record/util"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/mqtt"
	"github.com/tether-edge/tether/edge/store"
)

// mqttUsers gives the broker and other ports the users that a Secret names, as the node's store has it. What cannot be used leaves
// those that could be last, also over a restart.
type mqttUsers struct {
	key   object.Key // without a name: there is no such Secret
	node  string
	store *store.Store
	write func(context.Context, []store.Note, ...object.Outgoing) error // the store's Keep
	set   func([]mqtt.User) error
	shown func(context.Context, object.Outgoing) error
	log   *slog.Logger
	now   func() time.Time
	// good is the list that is in use and that a restart finds, in the form of encodeUsers; nil for none.
	good []byte
	// noted: there is a note, which may be one that could not be used.
	noted bool
}

const (
	bucketMQTTUsers = "mqtt-users"
	// followAgain is how long it waits after an error of the store.
	followAgain = time.Second
)

// usersOf gives configured users the form of edge/mqtt.
func usersOf(all []v1alpha1.MQTTUser) (users []mqtt.User) {
	for _, u := range all {
		user := mqtt.User{Name: u.Name, Hash: u.PasswordHash}
		for _, a := range u.ACL {
			user.ACL = append(user.ACL, mqtt.Access{Filter: a.Filter, Read: a.Read, Write: a.Write})
		}
		users = append(users, user)
	}
	return users
}

// Start follows the Secret until ctx is done.
func (u *mqttUsers) Start(ctx context.Context) error {
	u.recall(ctx)
	if u.key.Name == "" {
		<-ctx.Done()
	}
	for ctx.Err() == nil {
		if err := u.follow(ctx); err != nil && ctx.Err() == nil {
			u.log.Warn("cannot follow the Secret of MQTT users, trying again", "secret", u.key.String(), "error", err)
			select {
			case <-time.After(followAgain):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// recall takes the users that were in use before the restart: what the Secret says now may be unusable. Those of a Secret that the
// configuration named before are forgotten.
func (u *mqttUsers) recall(ctx context.Context) {
	var list []byte
	var others []store.Note
	err := u.store.Notes(ctx, bucketMQTTUsers, func(key string, value []byte) error {
		if u.key.Name != "" && key == u.key.String() {
			list, u.noted = bytes.Clone(value), true
		} else {
			others = append(others, store.Note{Bucket: bucketMQTTUsers, Key: key})
		}
		return nil
	})
	if len(others) > 0 {
		if err := u.write(ctx, others); err != nil {
			u.log.Warn("the MQTT users of a former Secret are not forgotten, the next start tries again", "error", err)
		}
	}
	if err == nil && list != nil {
		err = u.reuse(ctx, list)
	}
	if err != nil {
		u.log.Warn("the MQTT users of before are lost until their Secret is read", "error", err)
	}
}

// reuse uses a list that was kept. Former versions kept what the Secret said, comments and all.
func (u *mqttUsers) reuse(ctx context.Context, kept []byte) error {
	list, err := u.use(kept)
	if err != nil {
		return err
	}
	if u.good = kept; bytes.Equal(list, kept) {
		return nil
	}
	if err := u.keep(ctx, list); err != nil {
		u.log.Warn("what a former version kept of the Secret of MQTT users is not replaced, the next start tries again", "error", err)
	}
	return nil
}

// use makes what a Secret lists the users, and returns what of it is to be kept.
func (u *mqttUsers) use(said []byte) (list []byte, err error) {
	users, err := v1alpha1.DecodeMQTTUsers(said)
	if err != nil {
		return nil, err
	}
	if list, err = encodeUsers(users); err != nil || bytes.Equal(list, u.good) {
		return list, err
	}
	return list, u.set(usersOf(users))
}

// encodeUsers is what a note holds: nothing of a Secret but names, hashes and rights.
func encodeUsers(users []v1alpha1.MQTTUser) ([]byte, error) {
	list, err := json.Marshal(users)
	if err == nil && len(list) > store.MaxNoteValue {
		err = fmt.Errorf("expected users of at most %d bytes in all, found %d", store.MaxNoteValue, len(list))
	}
	return list, err
}

func (u *mqttUsers) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := u.store.NextSync()
	records, since, err := u.store.List(ctx, object.Secrets, u.key.Namespace)
	if err != nil {
		return err
	}
	events, err := u.store.Watch(ctx, object.Secrets, since)
	if err != nil {
		return err
	}
	var there *object.Record
	for _, r := range records {
		if r.Key == u.key {
			there = r
		}
	}
	// Before the first sync nobody knows whether there is none, and before the next one what one says whose key is lost.
	if there == nil && u.store.Synced(object.Secrets) || there != nil && !there.Sealed {
		if err := u.take(ctx, there); err != nil {
			return err
		}
		next = nil
	}
	for {
		select {
		case <-next:
			return nil // to look again
		case e, more := <-events:
			if !more {
				return nil
			}
			if e.Record.Key != u.key {
				continue
			}
			there = e.Record
			if e.Type == object.Deleted {
				there = nil
			}
			if err := u.take(ctx, there); err != nil {
				return err
			}
			next = nil
		}
	}
}

// take judges what the Secret says; nil: it is not there, and neither are its users.
func (u *mqttUsers) take(ctx context.Context, r *object.Record) error {
	if r == nil {
		if !u.noted && u.good == nil {
			return nil
		}
		u.log.Warn("the Secret of MQTT users is gone from this node, and so are its users", "secret", u.key.String())
		return u.keep(ctx, nil)
	}
	said, err := listOf(r)
	var list []byte
	if err == nil {
		list, err = u.use(said)
	}
	if err != nil {
		u.refuse(ctx, r, err)
		return nil
	}
	if bytes.Equal(list, u.good) {
		return nil
	}
	u.log.Info("MQTT users are as their Secret says", "secret", u.key.String())
	return u.keep(ctx, list)
}

// keep makes a list that is in use, or none, the one that a restart finds.
func (u *mqttUsers) keep(ctx context.Context, list []byte) error {
	if list == nil {
		if err := u.set(nil); err != nil {
			return err
		}
	}
	if err := u.write(ctx, []store.Note{{Bucket: bucketMQTTUsers, Key: u.key.String(), Value: list}}); err != nil {
		return err
	}
	u.good, u.noted = list, list != nil
	return nil
}

func listOf(r *object.Record) ([]byte, error) {
	kind, _ := object.Lookup(object.Secrets)
	o, err := object.Decode(kind, r.Body)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	list, ok := o.(*corev1.Secret).Data[v1alpha1.MQTTUsersKey]
	if !ok {
		return nil, fmt.Errorf("expected the key %s, found none", v1alpha1.MQTTUsersKey)
	}
	return list, nil
}

// maxRefusal bounds what an Event says, in bytes: the API server takes 1,024.
const maxRefusal = 900

// refuse says in the log, and in an Event on the Secret, why its users are not used.
func (u *mqttUsers) refuse(ctx context.Context, r *object.Record, reason error) {
	u.log.Error("the Secret of MQTT users cannot be used, the last users stay", "secret", u.key.String(), "error", reason)
	now := metav1.NewTime(u.now())
	text := reason.Error()
	event := &corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Namespace: u.key.Namespace, Name: recordutil.GenerateEventName(u.key.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: u.key.Namespace, Name: u.key.Name, UID: types.UID(r.Version.UID)},
		Reason:         "MQTTUsersRefused",
		Message:        fmt.Sprintf("node %s goes on with the MQTT users that it had: %s", u.node, text[:min(len(text), maxRefusal)]),
		Source:         corev1.EventSource{Component: "edgecore", Host: u.node}, FirstTimestamp: now, LastTimestamp: now, Count: 1, Type: corev1.EventTypeWarning,
	}
	kind, _ := object.Lookup(object.Events)
	body, err := object.Encode(kind, event)
	if err == nil {
		o := object.Outgoing{Key: object.KeyOf(object.Events, event), Op: object.OpCreate, Body: body, Class: object.ClassEvent, Priority: object.PriorityEvent,
			Policy: object.DropOldest, Expires: now.Add(time.Hour)}
		if err = u.write(ctx, nil, o); err == nil {
			err = u.shown(ctx, o)
		}
	}
	if err != nil {
		u.log.Warn("an event is lost", "error", err)
	}
}
