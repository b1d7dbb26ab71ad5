package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

func TestAnUIDIsPackedOnlyIfItComesBackTheSame(t *testing.T) {
	const uid = "0fedcba9-8765-4321-0123-456789abcdef"
	if b := uuidBytes(uid); len(b) != uuidSize || uuidText(b) != uid {
		t.Errorf("%s became %x", uid, b)
	}
	for _, other := range []string{"", "u1", strings.ToUpper(uid), strings.ReplaceAll(uid, "-", ""), strings.ReplaceAll(uid, "-", "_"),
		"0fedcba9-8765-4321-0123-456789abcdeg", uid + "0", "0fedcba98-765-4321-0123-456789abcdef"} {
		if b := uuidBytes(other); b != nil {
			t.Errorf("%q was packed into %x", other, b)
		}
	}
}

func FuzzUID(f *testing.F) {
	f.Add("0fedcba9-8765-4321-0123-456789abcdef")
	f.Add("0FEDCBA9-8765-4321-0123-456789abcdef")
	f.Fuzz(func(t *testing.T, s string) {
		if b := uuidBytes(s); b != nil && uuidText(b) != s {
			t.Errorf("%q came back as %q", s, uuidText(b))
		}
	})
}

// An edge that does not know compact items gets plain ones; one that does gets fewer bytes and understands the same.
func TestItemsAreCompactWhereTheEdgeKnowsIt(t *testing.T) {
	kinds := []object.ID{object.ConfigMaps, object.Pods}
	hello := []*wire.KindDigest{{Kind: string(kinds[0])}, {Kind: string(kinds[1])}}
	plain := func() *wire.Item {
		return &wire.Item{Kind: string(object.Pods), Namespace: "n", Name: "p", Uid: "0fedcba9-8765-4321-0123-456789abcdef", ResourceVersion: 7}
	}
	old, now := &Hub{}, &Hub{compact: compactKinds(hello)}
	if got := old.compacted(plain()); !proto.Equal(got, plain()) {
		t.Errorf("to an older edge: %v", got)
	}
	got := now.compacted(plain())
	if saved := proto.Size(plain()) - proto.Size(got); saved < 24 {
		t.Errorf("%d bytes saved of %d", saved, proto.Size(plain()))
	}
	if err := expand([]*wire.Item{got}, kinds); err != nil || !proto.Equal(got, plain()) {
		t.Errorf("it came back as %v, %v", got, err)
	}
	foreign := &wire.Item{Kind: "widgets.example.com", Uid: "u1"}
	if got := now.compacted(proto.Clone(foreign).(*wire.Item)); !proto.Equal(got, foreign) {
		t.Errorf("a kind and a uid that cannot be packed: %v", got)
	}
}

func TestOnlyAnEdgeThatOffersItGetsCompactItems(t *testing.T) {
	for name, features := range map[string][]string{"older": nil, "other": {"x"}, "present": {featureCompact}} {
		h := NewHub(HubConfig{Node: "edge"}, newTraceView(), time.Now())
		if _, err := h.hello(time.Now(), &wire.Hello{Versions: wire.Versions(), Node: "edge", Features: features,
			Kinds: []*wire.KindDigest{{Kind: string(object.Pods)}}}); err != nil {
			t.Fatal(err)
		}
		if compact := h.compact != nil; compact != (name == "present") {
			t.Errorf("an %s edge gets compact items: %t", name, compact)
		}
	}
}

func TestACompactItemThatMakesNoSenseEndsTheSession(t *testing.T) {
	for name, item := range map[string]*wire.Item{"kind": {KindIndex: 99}, "uid": {KindIndex: 1, Uuid: []byte{1, 2}}} {
		e := NewEdge(EdgeConfig{Node: "edge"}, Held{})
		e.Start(time.Now())
		if _, err := e.Receive(time.Now(), &wire.Frame{Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{Version: wire.Version}}}); err != nil {
			t.Fatal(err)
		}
		_, err := e.Receive(time.Now(), &wire.Frame{Body: &wire.Frame_Batch{Batch: &wire.Batch{Seq: 1, Items: []*wire.Item{item}}}})
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v, want a protocol error", name, err)
		}
	}
}
