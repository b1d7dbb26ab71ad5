package link

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	cloudupstream "github.com/tether-edge/tether/cloud/upstream"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Memory grows with what arrives, not with what is announced.
func TestAFrameThatIsPromisedCostsNothing(t *testing.T) {
	w := newWorld(t, nil)
	const peers = 50
	var raws []*raw
	for i := range peers {
		node := fmt.Sprintf("edge-%d", i)
		r := w.raw(node)
		r.hello(node)
		raws = append(raws, r)
	}
	eventually(t, "all have a session", func() bool { return w.caches.subscribers() == peers })
	before := measure()
	for _, r := range raws {
		// The largest frame that is allowed, and the first KiB of it.
		if _, err := r.Write(append([]byte{0, 0x40, 0, 0}, make([]byte, 1<<10)...)); err != nil {
			t.Fatal(err)
		}
	}
	// One that keeps its promise is served beside them.
	honest := w.join("honest", edgeConfig{})
	eventually(t, "an honest edge gets in", honest.up)
	if grown := int64(measure().heap) - int64(before.heap); grown > 16<<20 {
		t.Errorf("%d frames of 4 MiB that were promised take %d MiB, expected little more than what arrived", peers, grown>>20)
	}
}

// refusing is an API server that nobody should ask.
type refusing struct{ t *testing.T }

func (r refusing) RoundTrip(req *http.Request) (*http.Response, error) {
	r.t.Errorf("the API server was asked: %s %s", req.Method, req.URL)
	return nil, errors.New("nobody should ask")
}

// The bombs themselves are cloud/upstream's; here they take the whole way, and others are served meanwhile.
func TestABombOverTheLinkHarmsNobody(t *testing.T) {
	w := newWorld(t, nil)
	codec, err := wire.NewCompressor()
	if err != nil {
		t.Fatal(err)
	}
	a, err := cloudupstream.New(cloudupstream.Config{Impersonation: cloudupstream.Constrained}, cloudupstream.Deps{RESTConfig: &rest.Config{Host: "https://api.example", Transport: refusing{t}},
		Objects: noObjects{}, Compressor: codec, Log: quiet(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	w.up.apply = func(node string, m *wire.Write) *wire.Result { return a.Apply(t.Context(), node, m) }
	w.up.call = a.Call
	enc, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	huge := enc.EncodeAll(make([]byte, 256<<20), nil)
	many, _ := codec.Compress([]byte(`{"pod":{"containerStatuses":[{}` + strings.Repeat(",{}", 1_000_000) + `]}}`))
	far := []byte(`{"node":{"capacity":{"cpu":"1e999999999999"}}}`)
	honest := w.join("honest", edgeConfig{})
	eventually(t, "an honest edge is up", honest.up)
	evil := w.raw("evil")
	evil.hello("evil")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i, body := range [][]byte{huge, many, far} {
		how := wire.Compression_COMPRESSION_ZSTD
		if bytes.Equal(body, far) {
			how = wire.Compression_COMPRESSION_NONE
		}
		m := &wire.Write{Id: uint64(i + 1), Kind: string(object.Pods), Namespace: "a", Name: "b", Uid: "u", Op: wire.Op_OP_OVERLAY, Body: body, Compression: how}
		if i > 1 {
			m.Kind, m.Namespace, m.Name = string(object.Nodes), "", "evil"
		}
		evil.send(&wire.Frame{Body: &wire.Frame_Write{Write: m}},
			&wire.Frame{Body: &wire.Frame_Call{Call: &wire.Call{Id: uint64(i + 1), Verb: "create", Kind: string(object.Nodes), Name: "evil", ContentType: "application/json", Body: body}}})
	}
	for answers := 0; answers < 6; {
		switch f := evil.next(); {
		case f.GetResult() != nil:
			answers++
			if r := f.GetResult(); r.Code != 400 || !r.Final {
				t.Errorf("write %d got %v, expected a final 400", r.Id, r)
			}
		case f.GetReply() != nil:
			answers++
			if r := f.GetReply(); r.Code != 400 {
				t.Errorf("call %d got %d %s, expected 400", r.Id, r.Code, r.Body)
			}
		case f.GetGoodbye() != nil:
			t.Fatalf("the hub said goodbye: %v", f.GetGoodbye())
		}
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
		t.Errorf("six bombs made the process allocate %d MiB, expected 64 at most", took>>20)
	}
	w.caches.change(configMap("a"), []byte("one"))
	eventually(t, "the honest edge gets changes", func() bool { return honest.store.get(configMap("a")) == "one" })
}

type noObjects struct{}

func (noObjects) Object(object.Key) (object.Object, bool) { return nil, false }

func TestAnEdgeOfTheFuture(t *testing.T) {
	w := newWorld(t, nil)
	hello := func(node string, versions ...uint32) *raw {
		r := w.raw(node)
		r.send(&wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: versions, Features: []string{"telepathy"}, Node: node, Store: node}}})
		return r
	}
	future := uint32(wire.Version + 41)
	g := hello("alone", future).goodbye()
	want := fmt.Sprintf("the edge speaks [%d], this hub %v", future, wire.Versions())
	if g.Reason != wire.Reason_REASON_REFUSED || !strings.Contains(g.Message, want) {
		t.Errorf("an edge of version %d alone got %v, expected REASON_REFUSED that says %q", future, g, want)
	}
	if w.nodes.session("alone") != "" {
		t.Error("an edge without a common version has a session")
	}
	if g := hello("mute").goodbye(); g.Reason != wire.Reason_REASON_REFUSED {
		t.Errorf("an edge of no version got %v, expected REASON_REFUSED", g)
	}
	for _, f := range []*wire.Frame{hello("both", future, wire.Version).next(), hello("reversed", wire.Version, future).next()} {
		if m := f.GetWelcome(); m.GetVersion() != wire.Version || len(m.GetFeatures()) != 0 {
			t.Errorf("an edge of both got %v, expected a welcome to version %d without features", f, wire.Version)
		}
	}
}

func TestARevokedCertificateEndsItsSessionAndOpensNone(t *testing.T) {
	w := newWorld(t, nil)
	honest, stolen := w.join("honest", edgeConfig{}), w.join("stolen", edgeConfig{})
	eventually(t, "both are up", func() bool { return honest.up() && stolen.up() })
	w.revoked.Store("stolen", true)
	w.hub.Recheck()
	within(t, 5*time.Second, "its session ends", func() bool { return w.nodes.session("stolen") == "" })
	eventually(t, "it is told why at the next try", func() bool { return strings.Contains(stolen.Status().Problem, "revoked") })
	if g := w.raw("stolen").goodbye(); g.Reason != wire.Reason_REASON_REFUSED || !strings.Contains(g.Message, "revoked") {
		t.Errorf("got %v, expected REASON_REFUSED that says revoked", g)
	}
	if !honest.up() || w.nodes.session("stolen") != "" {
		t.Error("the honest edge is down, or the revoked one is in")
	}
}
