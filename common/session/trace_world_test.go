package session

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

var nodeKey = object.Key{Kind: object.Nodes, Name: "edge"}

func parseKey(t *testing.T, s string) object.Key {
	switch p := strings.Split(s, "/"); len(p) {
	case 2:
		return object.Key{Kind: object.ID(p[0]), Name: p[1]}
	case 3:
		return object.Key{Kind: object.ID(p[0]), Namespace: p[1], Name: p[2]}
	}
	t.Fatalf("key %q: expected KIND/NAME or KIND/NAMESPACE/NAME", s)
	return object.Key{}
}

type traceObject struct {
	object.Version
	size    int
	visible bool
	// blinks: absent for who reads it, present for who asks why it is absent.
	blinks bool
}

// traceView is a View that the script changes.
type traceView struct {
	objects map[object.Key]*traceObject
	causes  map[string]object.Cause // by uid
	pending map[object.Key]bool
	rev     map[object.ID]uint64
}

func newTraceView() *traceView {
	return &traceView{objects: map[object.Key]*traceObject{}, causes: map[string]object.Cause{},
		pending: map[object.Key]bool{}, rev: map[object.ID]uint64{}}
}

func (v *traceView) List(id object.ID, visit func(object.Key, object.Version)) {
	for k, o := range v.objects {
		if k.Kind == id && o.visible {
			visit(k, o.Version)
		}
	}
}

func (v *traceView) Get(k object.Key) (object.Item, bool) {
	o := v.objects[k]
	if o == nil || !o.visible || o.blinks {
		return object.Item{}, false
	}
	return object.Item{Version: o.Version, Body: bytes.Repeat([]byte("x"), o.size)}, true
}

func (v *traceView) Cause(k object.Key, uid, held string) object.Cause {
	if c, ok := v.causes[uid]; ok && c == object.CauseNodeGone {
		return c
	}
	if n := v.NodeUID(); n == "" || (k.Kind == object.Pods && held != "" && held != n) {
		return object.CauseNodeGone
	}
	o := v.objects[k]
	switch {
	case o != nil && o.visible:
		return 0
	case o != nil && o.UID == uid:
		return object.CauseOutOfInterest
	}
	return object.CauseDeleted
}

func (v *traceView) Pending(k object.Key) bool    { return v.pending[k] }
func (v *traceView) Revision(id object.ID) uint64 { return v.rev[id] }
func (v *traceView) Kinds() []object.ID {
	return []object.ID{object.Nodes, object.ConfigMaps, object.Secrets, object.Pods}
}

func (v *traceView) NodeUID() string {
	if o := v.objects[nodeKey]; o != nil {
		return o.UID
	}
	return ""
}

func (tr *trace) changed(k object.Key) {
	if tr.hub != nil {
		tr.hub.Changed(tr.now, []object.Key{k})
	}
}

func (tr *trace) put(k object.Key, a args) {
	o := &traceObject{Version: object.Version{UID: a["uid"], RV: tr.number(a, "rv", 0)}, visible: true, size: int(tr.number(a, "size", 10))}
	if had := tr.view.objects[k]; had != nil && o.UID == "" {
		o.UID = had.UID
	}
	tr.view.objects[k] = o
	tr.view.rev[k.Kind] = max(tr.view.rev[k.Kind], o.RV)
	tr.changed(k)
}

func (tr *trace) remove(k object.Key, a args) {
	o := tr.view.objects[k]
	if o == nil {
		tr.t.Fatalf("delete %s: it is not there", k)
	}
	delete(tr.view.objects, k)
	if _, lost := a["lost"]; lost {
		tr.view.causes[o.UID] = object.CauseNodeGone
	}
	tr.view.rev[k.Kind] = max(tr.view.rev[k.Kind], tr.number(a, "rv", 0))
	tr.changed(k)
}

func (tr *trace) toggle(k object.Key, f func(*traceObject)) {
	f(tr.view.objects[k])
	tr.changed(k)
}

func (tr *trace) hubDid(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Send:
			tr.down = append(tr.down, tr.sent("hub -> edge", e.Frame))
		case DoWrite:
			tr.writes[e.Write.Id] = e.Write
			tr.say("hub: apply write %d to %s", e.Write.Id, object.Key{Kind: object.ID(e.Write.Kind), Namespace: e.Write.Namespace, Name: e.Write.Name})
		default:
			tr.effect("hub", e)
		}
	}
}

func (tr *trace) edgeDid(effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Send:
			tr.up = append(tr.up, tr.sent("edge -> hub", e.Frame))
		case ApplyBatch, MarkSynced:
			tr.commits = append(tr.commits, e)
		case SendInventory:
			tr.inventory(e.Kind)
		case SendWrite:
			k := tr.keys[e.ID]
			tr.up = append(tr.up, tr.sent("edge -> hub", &wire.Frame{Body: &wire.Frame_Write{Write: &wire.Write{Id: e.ID,
				Kind: string(k.Kind), Namespace: k.Namespace, Name: k.Name, Op: wire.Op_OP_OVERLAY}}}))
		case DropWrite:
			delete(tr.keys, e.Result.Id)
			tr.say("edge: write %d leaves the outbox, code %d", e.Result.Id, e.Result.Code)
		default:
			tr.effect("edge", e)
		}
	}
}

func (tr *trace) effect(who string, e Effect) {
	switch e := e.(type) {
	case Welcomed:
		tr.say("%s: welcomed version=%d features=%v unknown=%v", who, e.Version, e.Features, e.Unknown)
	case Close:
		tr.say("%s: CLOSE %s %q come back in %s", who, e.Reason, e.Message, e.ComeBack)
	case DoCall:
		tr.say("%s: call %s", who, describe(e.Call.ProtoReflect()))
	case Answer:
		tr.say("%s: answer %s", who, describe(e.Reply.ProtoReflect()))
	case WriteFailed:
		tr.say("%s: write of %s failed (%d), failure %d, again in %s", who, e.Key, e.Result.Code, e.Failures, e.Again)
	case CheckRevision:
		tr.say("%s: ask the API server for its resourceVersion", who)
	case DeclareRestore:
		tr.say("%s: RESTORE %s held=%d server=%d", who, e.Key, e.Held, e.Server)
	case Alive:
		tr.say("%s: alive, lease renewed %s ago, ping every %s, dropped %v", who, e.LeaseAge, e.PingInterval, e.Dropped)
	default:
		tr.t.Fatalf("%s: effect %T is not known to the trace", who, e)
	}
}

func (tr *trace) inventory(id object.ID) {
	m := &wire.Inventory{Kind: string(id)}
	for _, k := range slices.SortedFunc(mapKeys(tr.rows), object.Key.Compare) {
		if k.Kind == id {
			m.Entries = append(m.Entries, &wire.InventoryEntry{Namespace: k.Namespace, Name: k.Name, Uid: tr.rows[k].UID, ResourceVersion: tr.rows[k].RV})
		}
	}
	tr.up = append(tr.up, tr.sent("edge -> hub", &wire.Frame{Body: &wire.Frame_Inventory{Inventory: m}}))
}

// sent writes a frame down and returns it without its prefix.
func (tr *trace) sent(way string, f *wire.Frame) []byte {
	b, err := wire.Append(nil, f)
	if err != nil {
		tr.t.Fatal(err)
	}
	m := f.ProtoReflect()
	body := m.Get(m.WhichOneof(m.Descriptor().Oneofs().Get(0))).Message()
	tr.say("%s: %s %s (%d bytes)", way, wire.Name(f), describe(body), len(b))
	return b[4:]
}

// describe writes a message on one line, set fields in the order of their numbers. It is not protobuf's text format,
// whose spacing changes on purpose.
func describe(m protoreflect.Message) string {
	switch x := m.Interface().(type) {
	case *wire.Item:
		k := object.Key{Kind: object.ID(x.Kind), Namespace: x.Namespace, Name: x.Name}
		if x.KindIndex > 0 {
			k.Kind = object.ID(fmt.Sprint("kind ", x.KindIndex)) // of those in the Hello
		}
		if x.Cause != 0 {
			return fmt.Sprintf("\n      delete %s uid=%s rv=%d %s", k, x.Uid, x.ResourceVersion, x.Cause)
		}
		return fmt.Sprintf("\n      put %s uid=%s rv=%d, %d bytes", k, x.Uid, x.ResourceVersion, len(x.Body))
	case *wire.KindDigest:
		return fmt.Sprintf("%d %s", x.Count, x.Kind)
	case *wire.InventoryEntry:
		return fmt.Sprintf("%s/%s uid=%s rv=%d", x.Namespace, x.Name, x.Uid, x.ResourceVersion)
	}
	var out []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); m.Has(f) {
			out = append(out, string(f.Name())+"="+describeValue(f, m.Get(f)))
		}
	}
	return strings.Join(out, " ")
}

func describeValue(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	one := func(v protoreflect.Value) string {
		switch f.Kind() {
		case protoreflect.MessageKind:
			return describe(v.Message())
		case protoreflect.EnumKind:
			return string(f.Enum().Values().ByNumber(v.Enum()).Name())
		case protoreflect.BytesKind:
			return fmt.Sprintf("%d bytes", len(v.Bytes()))
		}
		return fmt.Sprint(v.Interface())
	}
	if !f.IsList() {
		return one(v)
	}
	var out []string
	for i := range v.List().Len() {
		out = append(out, one(v.List().Get(i)))
	}
	return "[" + strings.ReplaceAll(strings.Join(out, ", "), ", \n", ",\n") + "]"
}

// TestResumeTakesOneRoundTripAndFewBytes: every kind, 300 objects, nothing changed.
func TestResumeTakesOneRoundTripAndFewBytes(t *testing.T) {
	view := resumeView{newTraceView()}
	held := Held{Digests: map[object.ID]object.Digest{}, NodeUID: "n1", Epoch: "e1"}
	for i := range 300 {
		kind := object.Synced()[i%len(object.Synced())]
		k, v := object.Key{Kind: kind.ID(), Name: fmt.Sprintf("o%d", i)}, object.Version{UID: fmt.Sprintf("uid-%d", i), RV: uint64(1000 + i)}
		view.objects[k] = &traceObject{Version: v, visible: true}
		d := held.Digests[k.Kind]
		d.Add(k, v)
		held.Digests[k.Kind] = d
	}
	now := time.Unix(1e6, 0)
	hub, edge := NewHub(HubConfig{Node: "edge"}, view, now), NewEdge(EdgeConfig{Node: "edge", Store: "db"}, held)
	size := func(effects []Effect) (frames []*wire.Frame, n int) {
		for _, e := range effects {
			if s, ok := e.(Send); ok {
				b, err := wire.Append(nil, s.Frame)
				if err != nil {
					t.Fatal(err)
				}
				frames, n = append(frames, s.Frame), n+len(b)
			}
		}
		return frames, n
	}
	hello, up := size(edge.Start(now))
	effects, err := hub.Receive(now, hello[0])
	if err != nil {
		t.Fatal(err)
	}
	polled, _ := hub.Poll(now)
	answer, down := size(append(effects, polled...))
	if len(answer) != 2 || len(answer[0].GetWelcome().GetWant()) > 0 || answer[1].GetSynced() == nil {
		t.Fatalf("the answer to the hello is %v, want a welcome that wants nothing and a synced", answer)
	}
	for _, f := range answer {
		effects, err := edge.Receive(now, f)
		if err != nil {
			t.Fatal(err)
		}
		if more, n := size(effects); n > 0 {
			t.Errorf("the edge has more to say: %v", more)
		}
	}
	t.Logf("%d bytes up, %d bytes down for %d kinds", up, down, len(held.Digests))
	if up+down > 1500 {
		t.Errorf("%d bytes up and %d down for an unchanged node, want at most 1500 together", up, down)
	}
}

// resumeView has every kind.
type resumeView struct{ *traceView }

func (resumeView) Kinds() []object.ID {
	var ids []object.ID
	for _, k := range object.Synced() {
		ids = append(ids, k.ID())
	}
	return ids
}
