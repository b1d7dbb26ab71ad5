package issuer

import (
	"context"
	"crypto"
	"strings"
	"testing"

	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
)

func pin(t *testing.T, key crypto.Signer) string {
	t.Helper()
	p, err := pki.KeyPin(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// connected says which key the live session has.
func (n *nodes) connected(session string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.session = session
}

// tryJoin joins as edge-1, from a machine with the same machine-id as all others of these tests.
func (e *env) tryJoin(key crypto.Signer, nodes string, replace bool) (*join.Response, error) {
	e.t.Helper()
	b := e.token(nodes, 1)
	r := e.request(b, "edge-1", key)
	r.Replace = replace
	return e.client(b).Join(e.t.Context(), r)
}

// Machines that were made from one image have one machine-id.
func TestACloneDoesNotGetALiveNodesName(t *testing.T) {
	for _, where := range []string{"here", "elsewhere"} {
		t.Run(where, func(t *testing.T) {
			e := newEnv(t)
			live := e.join("edge-1")
			session := where
			if where == "here" {
				session = pin(t, live.key)
			}
			e.nodes.connected(session)
			_, err := e.tryJoin(newKey(t), "*", false)
			wantRefusal(t, "a clone", err, "NameTaken")
			if err == nil || !strings.Contains(err.Error(), "--replace") || !strings.Contains(err.Error(), "machine-id") || !strings.Contains(err.Error(), "in a minute at most: join again then") {
				t.Errorf("neither remedy nor cause: %v", err)
			}
			_, err = e.tryJoin(newKey(t), "*", true)
			wantRefusal(t, "a clone that replaces, with a token for all", err, "TokenTooWide")
			if _, err := e.tryJoin(live.key, "*", false); err != nil {
				t.Errorf("the live machine itself, with its key: %v", err)
			}
			if len(e.nodes.refused) == 0 {
				t.Error("no Event tells of it")
			}
			if _, err := e.tryJoin(newKey(t), "edge-1", true); err != nil {
				t.Errorf("a clone that replaces, with a token for that name: %v", err)
			}
			e.reload()
			_, err = live.Node(t.Context())
			wantRefusal(t, "the machine that was replaced", err, "Revoked")
		})
	}
}

func TestAMachineThatLostItsKeyJoinsAgain(t *testing.T) {
	e := newEnv(t)
	e.join("edge-1")
	if _, err := e.tryJoin(newKey(t), "*", false); err != nil {
		t.Errorf("set up anew, without a session: %v", err)
	}
}

// A clone that joined while the live machine was away has a certificate. It is not the live machine's to be ended with.
func TestOnlyWhoHasANameGivesItBack(t *testing.T) {
	e := newEnv(t)
	first := e.join("edge-1")
	key := newKey(t)
	resp, err := e.tryJoin(key, "*", false)
	if err != nil {
		t.Fatal(err)
	}
	clone := e.as(resp, key)
	wantRefusal(t, "the first, whose record the clone has taken", first.Leave(t.Context()), "NameTaken")
	e.nodes.connected(pin(t, first.key))
	wantRefusal(t, "the clone, while the first is connected", clone.Leave(t.Context()), "NameTaken")
	if s, err := clone.Node(t.Context()); err != nil || s.Ready || !strings.Contains(s.Reason, "another machine") {
		t.Errorf("the clone is told %+v, %v, expected that another machine is connected", s, err)
	}
	if len(e.nodes.removed) > 0 {
		t.Errorf("removed %v", e.nodes.removed)
	}
	if held, err := e.store.Identity(context.Background(), "edge-1"); err != nil || held == nil {
		t.Errorf("the record is gone: %v", err)
	}
	if _, err := first.Node(t.Context()); err != nil {
		t.Errorf("the first was revoked: %v", err)
	}
	// With its next certificate the name is the first's again.
	again, err := first.Renew(t.Context(), []byte(csr(t, "edge-1", first.key)))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.as(again, first.key).Leave(t.Context()); err != nil {
		t.Errorf("who has the name: %v", err)
	}
}
