package methods

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	common "github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// bucket is where the calls with keys are kept, by the key's id.
const bucket = "method"

// A keyID names a key: the same key of another user or for another device is another one.
type keyID [sha256.Size]byte

// A digest is of what was asked with a key.
type digest [sha256.Size]byte

func keyOf(a ask) keyID {
	if a.key == "" {
		return keyID{}
	}
	return sum(a.user, a.namespace, a.name, a.key)
}

// digestOf is the same for bodies that say the same.
func digestOf(a ask) digest {
	parts := []string{a.method}
	for _, name := range slices.Sorted(maps.Keys(a.given)) {
		parts = append(parts, name, a.given[name].text)
	}
	return sum(parts...)
}

func sum(parts ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// record is what is kept of a call, as JSON.
type record struct {
	Call      string             `json:"call"`
	Seq       uint64             `json:"seq"`
	Namespace string             `json:"namespace"`
	Device    string             `json:"device"`
	UID       string             `json:"uid"`
	Method    string             `json:"method"`
	Digest    []byte             `json:"digest"`
	Settings  map[string]setting `json:"settings"`
	Outcome   *outcome           `json:"outcome,omitempty"`
}

// note is what is kept of c once what is offered was read back. Called with mu held.
func (c *call) note(offer map[string]string) (Note, error) {
	r := record{Call: c.name, Seq: c.seq, Namespace: c.namespace, Device: c.device, UID: c.uid, Method: c.method, Digest: c.digest[:], Settings: maps.Clone(c.settings), Outcome: c.outcome}
	left := 0
	for name, s := range r.Settings {
		if value, ok := offer[name]; ok {
			s.Reported = &value
			r.Settings[name] = s
		}
		if s.Reported == nil {
			left++
		}
	}
	if left == 0 {
		r.Outcome = &outcome{Code: 200}
	}
	value, err := json.Marshal(r)
	if err != nil {
		return Note{}, fmt.Errorf("encode a method call: %w", err)
	}
	return Note{Bucket: bucket, Key: c.noteKey(), Value: value}, nil
}

// noteKey tells a call from a later one with the same key, whose note may be written before this one's is removed.
func (c *call) noteKey() string { return hex.EncodeToString(c.key[:]) + "/" + c.name }

// parseNote reads what was kept of a call.
func parseNote(key string, value []byte) (*call, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	c := &call{name: r.Call, seq: r.Seq, namespace: r.Namespace, device: r.Device, uid: r.UID, method: r.Method, settings: r.Settings, outcome: r.Outcome,
		told: map[string]string{}, by: map[string]string{}, lost: map[string]string{}, stored: true, kept: r.Outcome != nil, done: make(chan struct{}), bytes: len(value)}
	if id, err := hex.DecodeString(strings.TrimSuffix(key, "/"+c.name)); err != nil || copy(c.key[:], id) != len(c.key) || c.noteKey() != key {
		return nil, fmt.Errorf("expected a key of %d bytes and the name of the call", len(c.key))
	}
	if _, _, err := common.ParseID(c.id()); err != nil {
		return nil, err
	}
	if len(r.Digest) != len(c.digest) || len(r.Settings) == 0 {
		return nil, fmt.Errorf("expected a digest of %d bytes and settings, found %d and %d", len(c.digest), len(r.Digest), len(r.Settings))
	}
	copy(c.digest[:], r.Digest)
	if c.outcome != nil {
		close(c.done)
	}
	return c, nil
}

// load reads the calls of former processes. One that cannot be read is removed with the next call.
func (d *desk) load(ctx context.Context) error {
	var all []*call
	var broken []string
	err := d.deps.Memory.All(ctx, bucket, func(key string, value []byte) error {
		c, err := parseNote(key, value)
		if err != nil {
			d.m.failures.Inc()
			d.deps.Log.Warn("a stored method call cannot be read", "key", key, "error", err)
			broken = append(broken, key)
			return nil
		}
		all = append(all, c)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the calls of methods: %w", err)
	}
	slices.SortFunc(all, func(a, b *call) int { return cmp.Compare(a.seq, b.seq) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.garbage = append(d.garbage, broken...)
	for _, c := range all {
		if former := d.keys[c.key]; former != nil {
			d.forget(former)
		}
		d.seq = max(d.seq, c.seq-1)
		d.add(c)
	}
	close(d.loaded)
	return nil
}

// find returns the call that has a key, nil if there is none. One of an earlier device of the name is forgotten. Called with mu held.
func (d *desk) find(key keyID, uid string) *call {
	c := d.keys[key]
	if c == nil || key == (keyID{}) {
		return nil
	}
	if c.waiting == 0 && (c.uid != uid || !time.Now().Before(c.expires)) {
		d.forget(c)
		return nil
	}
	return c
}

// forget drops a call and has its note removed with the next one. Called with mu held.
func (d *desk) forget(c *call) {
	d.drop(c)
	d.garbage = append(d.garbage, c.noteKey())
}

// maxGarbage is how many notes are removed at a time.
const maxGarbage = 100

// remember returns the notes to store when c is begun: its own, if it has a key, and removals of what gives way. stored is to be
// called when they are.
func (d *desk) remember(c *call) (notes []Note, stored func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.key != (keyID{}) {
		n, err := c.note(nil)
		if err != nil {
			return nil, nil, err
		}
		d.bytes += len(n.Value) - c.bytes
		c.bytes = len(n.Value)
		notes = append(notes, n)
	}
	d.makeRoom(c)
	removed := slices.Clone(d.garbage[:min(len(d.garbage), maxGarbage)])
	for _, key := range removed {
		notes = append(notes, Note{Bucket: bucket, Key: key})
	}
	return notes, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		c.stored = true
		d.garbage = slices.DeleteFunc(d.garbage, func(key string) bool { return slices.Contains(removed, key) })
	}, nil
}

// makeRoom forgets keys whose time is over, and the oldest beyond the limits; not c's. Called with mu held.
func (d *desk) makeRoom(c *call) {
	now, ofDevice := time.Now(), 0
	for _, o := range d.order {
		if o.id() == c.id() {
			ofDevice++
		}
	}
	for _, o := range slices.Clone(d.order) {
		if o == c || o.waiting > 0 {
			continue
		}
		expired := !now.Before(o.expires)
		many := ofDevice > d.cfg.MaxKeysOfDevice && o.id() == c.id()
		if !expired && !many && len(d.order) <= d.cfg.MaxKeys && d.bytes <= d.cfg.MaxKeyBytes {
			continue
		}
		if o.id() == c.id() {
			ofDevice--
		}
		if !expired {
			d.m.evicted.Inc()
		}
		d.forget(o)
	}
}

// compare judges a call of a former process by how its device is now. Called with mu held.
func (d *desk) compare(c *call, device Device) {
	now := map[string]*twin.Property{}
	for name := range c.settings {
		now[name] = device.Properties[name]
	}
	c.lose(now)
	d.giveUp(c)
}

// A settling is the writing of an outcome.
type settling struct {
	done chan struct{} // closed once it went as err says
	err  error
}

// settle stores an outcome that is not on the disk yet, before anybody is told it. Who comes while it is being stored waits for that
// too. After an error the next one tries again.
func (d *desk) settle(c *call) error {
	d.mu.Lock()
	if c.kept || c.key == (keyID{}) || d.keys[c.key] != c {
		d.mu.Unlock()
		return nil
	}
	s := c.settling
	if s != nil {
		d.mu.Unlock()
		<-s.done
		return s.err
	}
	s = &settling{done: make(chan struct{})}
	c.settling = s
	n, err := c.note(nil)
	d.mu.Unlock()
	if err == nil {
		// The client may be gone; the outcome is for all who ask.
		ctx, cancel := context.WithTimeout(context.Background(), backstop)
		defer cancel()
		err = d.deps.Memory.Keep(ctx, n)
	}
	if err != nil {
		d.m.failures.Inc()
		d.deps.Log.Error("the outcome of a method call cannot be stored", "device", c.id(), "method", c.method, "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.kept, c.settling, s.err = err == nil, nil, err
	close(s.done)
	return err
}
