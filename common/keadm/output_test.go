package keadm

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/tether-edge/tether/common/trust"
)

func TestATokenForProgramsSaysWhatItIsFor(t *testing.T) {
	store := trust.New(fake.NewClientset(), func() time.Time { return today })
	if _, _, err := store.EnsureCA(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := IO{Now: func() time.Time { return today }}
	bearer, made, err := makeToken(t.Context(), w, store, trust.TokenRequest{Nodes: "shop-*", MaxUses: 5, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	stored, err := store.Tokens(t.Context())
	if err != nil || len(stored) != 1 {
		t.Fatalf("%v, %v", stored, err)
	}
	if x := stored[0]; made.ID != x.ID || made.Nodes != x.Nodes || made.MaxUses != x.MaxUses || !made.Expires.Equal(x.Expires) || made.Token != bearer.String() {
		t.Errorf("says %+v of %+v", made, x)
	}
}

// With -o standard output has the result and nothing else.
func TestProgressMakesRoomForTheResult(t *testing.T) {
	var out, errOut bytes.Buffer
	w := IO{Out: &out, Err: &errOut}
	if p, err := progressOf(w, ""); err != nil || p.Out != &out {
		t.Errorf("for people: %v", err)
	}
	for _, format := range formats {
		if p, err := progressOf(w, format); err != nil || p.Out != &errOut {
			t.Errorf("for programs, %s: %v", format, err)
		}
	}
	if err := showResult(w, "", 1); err != nil || out.Len() > 0 {
		t.Errorf("for people: %v, %q", err, out.String())
	}
	if err := showResult(w, "json", 1); err != nil || out.String() != "1\n" {
		t.Errorf("for programs: %v, %q", err, out.String())
	}
}

func TestAResetTellsProgramsWhatItDid(t *testing.T) {
	r, _, _ := drainingResetter(t, newNodesAPI(func(string) error { return nil }))
	config := r.files.config
	if err := r.reset(t); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(r.done)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(map[string]any{"node": "edge-1", "drained": map[string]any{"pods": 2}, "stopped": false, "ended": 1, "nodeRemoved": true,
		"removed": []string{config, r.files.data, r.files.pki}})
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("says\n%s\nexpected\n%s", got, want)
	}
}

func TestATokenForAnyNameIsNotForAStar(t *testing.T) {
	for want, r := range map[string]trust.TokenRequest{
		"The token is for one node of any name. ":     {Nodes: "*", MaxUses: 1},
		"The token is for 5 nodes named \"shop-*\". ": {Nodes: "shop-*", MaxUses: 5},
	} {
		if got := tokenScope(r); !strings.HasPrefix(got, want) {
			t.Errorf("said %q, expected %q", got, want)
		}
	}
}
