package methods

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	common "github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// id names a device: namespace/name.
type id = string

// A desk owns the calls: those that are being made, and those whose keys are remembered. It never calls Devices while mu is held,
// which calls it while a device is held.
type desk struct {
	cfg  Config
	deps Deps
	m    *metrics
	// loaded is closed once the calls of former processes are known.
	loaded  chan struct{}
	running sync.WaitGroup // of run; added to only while there is a life

	mu sync.Mutex // guards what follows
	// life is that of the process, nil while the desk is closed.
	life     context.Context
	lanes    map[id]*lane
	ofMapper map[string]int // places taken, by protocol
	// pending are the calls of a device that have no outcome yet.
	pending map[id]map[*call]bool
	// storing has the devices of which a report with something that calls desire is being stored; closed once it is.
	storing map[id]chan struct{}
	keys    map[keyID]*call
	order   []*call // those with keys, the oldest first
	bytes   int     // that their notes take
	seq     uint64
	garbage []string // keys of notes that are to be removed
}

func newDesk(cfg Config, deps Deps) *desk {
	return &desk{cfg: cfg, deps: deps, loaded: make(chan struct{}), lanes: map[id]*lane{}, ofMapper: map[string]int{}, pending: map[id]map[*call]bool{}, storing: map[id]chan struct{}{}, keys: map[keyID]*call{}}
}

// add takes a call in. Called with mu held.
func (d *desk) add(c *call) {
	d.seq++
	c.seq = d.seq
	if c.outcome == nil {
		if d.pending[c.id()] == nil {
			d.pending[c.id()] = map[*call]bool{}
		}
		d.pending[c.id()][c] = true
	}
	if c.key != (keyID{}) {
		d.keys[c.key] = c
		d.order = append(d.order, c)
		d.bytes += c.bytes
		c.expires = time.Now().Add(d.cfg.KeyLife)
	}
}

// drop forgets a call, but for its note. Called with mu held.
func (d *desk) drop(c *call) {
	d.ended(c)
	if d.keys[c.key] == c {
		delete(d.keys, c.key)
		d.order = slices.DeleteFunc(d.order, func(o *call) bool { return o == c })
		d.bytes -= c.bytes
	}
}

// ended takes a call out of those without an outcome. Called with mu held.
func (d *desk) ended(c *call) {
	delete(d.pending[c.id()], c)
	if len(d.pending[c.id()]) == 0 {
		delete(d.pending, c.id())
	}
}

// end gives a call its outcome. Called with mu held.
func (d *desk) end(c *call, code int, reason string) {
	if c.outcome != nil {
		return
	}
	c.outcome = &outcome{code, reason}
	if code == http.StatusOK && c.over != nil {
		d.m.seconds.Observe(time.Since(c.asked).Seconds())
	}
	d.ended(c)
	close(c.done)
}

// open says that the calls of former processes are known.
func (d *desk) open() bool {
	select {
	case <-d.loaded:
		return true
	default:
		return false
	}
}

// live opens the desk, and rest closes it when life is over and waits for the calls that are being made.
func (d *desk) live(life context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life = life
}

func (d *desk) rest() {
	d.mu.Lock()
	d.life = nil
	d.mu.Unlock()
	d.running.Wait()
}

// calls counts those that are being made, remembered those whose keys are known.
func (d *desk) calls() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, used := range d.ofMapper {
		n += used
	}
	return n
}

func (d *desk) remembered() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.keys)
}

func nobody(error) {}

// reporting hears what a mapper reports of a device, before it is stored. The notes are to be stored with it; then said is called
// with how that went. It waits until the calls of former processes are known, and for the report before that calls of the device
// heard of: each note has what those before it have, so the last that is stored is the whole truth.
func (d *desk) reporting(ctx context.Context, namespace, name string, twins []v1beta1.Twin) (notes []Note, said func(error), err error) {
	select {
	case <-d.loaded:
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for the calls of methods to be known: %w", ctx.Err())
	}
	device := common.ID(namespace, name)
	d.meet(namespace, name)
	for {
		d.mu.Lock()
		offers := d.offers(device, twins)
		before := d.storing[device]
		if len(offers) == 0 || before == nil {
			defer d.mu.Unlock()
			return d.hold(device, offers)
		}
		d.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("wait for an earlier report of the device to be stored: %w", ctx.Err())
		}
	}
}

// offers are what a report reads back of the calls of a device. Called with mu held.
func (d *desk) offers(device id, twins []v1beta1.Twin) map[*call]map[string]string {
	offers := map[*call]map[string]string{}
	for c := range d.pending[device] {
		if !c.stored {
			continue
		}
		if offer := c.offer(twins); len(offer) > 0 {
			offers[c] = offer
		}
	}
	return offers
}

// hold makes the notes of what is offered, and has the next such report of the device wait until said is called. Called with mu held.
func (d *desk) hold(device id, offers map[*call]map[string]string) (notes []Note, said func(error), err error) {
	if len(offers) == 0 {
		return nil, nobody, nil
	}
	for c, offer := range offers {
		if c.key == (keyID{}) {
			continue
		}
		n, err := c.note(offer)
		if err != nil {
			return nil, nil, err
		}
		notes = append(notes, n)
	}
	for c := range offers {
		c.offered = true
	}
	d.storing[device] = make(chan struct{})
	return notes, func(err error) { d.reported(device, offers, err) }, nil
}

// reported takes what was offered, unless it could not be stored.
func (d *desk) reported(device id, offers map[*call]map[string]string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.storing[device])
	delete(d.storing, device)
	for c, offer := range offers {
		c.offered = false
		if err == nil {
			c.accept(offer)
		}
		if c.readBack() {
			c.kept = true // with the report
			d.end(c, http.StatusOK, "")
		} else {
			d.giveUp(c)
		}
	}
}

// giveUp ends a call that lost a desire before it was read back; a report that is being stored is waited for. Called with mu held.
func (d *desk) giveUp(c *call) {
	if len(c.lost) > 0 && !c.offered {
		first := slices.Min(slices.Collect(maps.Keys(c.lost)))
		d.end(c, http.StatusConflict, c.lost[first])
	}
}

// offer returns what a report reads back of a call. A report counts whose mapper says that it saw the desire of this call, or, where
// it names no call, as others' mappers do, one that came after the mapper was told and says of no other value that it was desired.
func (c *call) offer(twins []v1beta1.Twin) map[string]string {
	offer := map[string]string{}
	for i := range twins {
		t := &twins[i]
		s, ok := c.settings[t.PropertyName]
		if !ok || s.Reported != nil || t.Reported == nil || !s.same(t.Reported.Value) {
			continue
		}
		desire, ok := c.told[t.PropertyName]
		if seen := t.ObservedDesired; seen != nil && seen.Value != "" {
			if !s.same(seen.Value) {
				continue
			}
			if named := seen.Metadata[common.MetadataCall]; named != "" {
				desire, ok = named, true
			}
		}
		if ok && c.means(t.PropertyName, desire) {
			offer[t.PropertyName] = t.Reported.Value
		}
	}
	return offer
}

// means says whether the value that a call desires, "" for no call, is desired by c or since c.
func (c *call) means(property, desire string) bool {
	by, known := c.by[property]
	return desire == c.name || known && desire == by
}

func (c *call) accept(offer map[string]string) {
	for name, value := range offer {
		s := c.settings[name]
		s.Reported = &value
		c.settings[name] = s
		delete(c.lost, name)
	}
}

// given hears that a mapper knows a device as it is here.
func (d *desk) given(device *dmi.Device) {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.pending[common.ID(device.GetNamespace(), device.GetName())]
	if len(calls) == 0 {
		return
	}
	for _, p := range device.GetSpec().GetProperties() {
		for c := range calls {
			s, ok := c.settings[p.GetName()]
			if ok && c.stored && s.same(p.GetDesired().GetValue()) {
				c.told[p.GetName()] = p.GetDesired().GetMetadata()[common.MetadataCall]
			}
		}
	}
}

// changed hears how properties of a device are now; nil for one that is not there any more.
func (d *desk) changed(namespace, name string, current map[string]*twin.Property) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.pending[common.ID(namespace, name)] {
		for property := range c.settings {
			if p := current[property]; p != nil && p.Desired() != nil && p.Desired().Call == c.name {
				c.stored = true // what it desires is heard of before Desire returns
			}
		}
		if c.stored {
			maps.Copy(c.by, c.desires(current))
			c.lose(current)
			d.giveUp(c)
		}
	}
}

// desires returns by which calls the properties of c are desired now, "" for none, by property.
func (c *call) desires(current map[string]*twin.Property) map[string]string {
	by := map[string]string{}
	for property := range c.settings {
		if p := current[property]; p != nil && p.Desired() != nil {
			by[property] = p.Desired().Call
		}
	}
	return by
}

// meet looks up by what the properties of calls of former processes are desired now: they hear of changes only.
func (d *desk) meet(namespace, name string) {
	d.mu.Lock()
	strange := false
	for c := range d.pending[common.ID(namespace, name)] {
		strange = strange || c.over == nil && !c.met
	}
	d.mu.Unlock()
	if !strange {
		return
	}
	device, ok := d.deps.Devices.Device(namespace, name)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.pending[common.ID(namespace, name)] {
		if c.over != nil {
			continue
		}
		c.met = true
		for property, call := range c.desires(device.Properties) {
			if _, heard := c.by[property]; !heard { // which is later than this
				c.by[property] = call
			}
		}
	}
}

// lose notes a desire that something else took the place of before it was read back.
func (c *call) lose(current map[string]*twin.Property) {
	for property, s := range c.settings {
		p, ok := current[property]
		if !ok || s.Reported != nil {
			continue
		}
		now := ""
		if p != nil && p.Desired() != nil {
			now = p.Desired().Value
		}
		if !s.same(now) {
			c.lost[property] = fmt.Sprintf("property %s: %s is desired now, before the device had %s", quoted(property), quoted(now), quoted(s.Value))
		}
	}
}

// gone hears that a device went, with all that is known of it.
func (d *desk) gone(namespace, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.pending[common.ID(namespace, name)] {
		if c.stored {
			d.end(c, http.StatusNotFound, "the device is gone")
		}
	}
	for _, c := range slices.Clone(d.order) {
		if c.namespace == namespace && c.device == name && c.stored {
			d.forget(c)
		}
	}
}
