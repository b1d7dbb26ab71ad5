package trust

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func (e *env) revoke(node string) {
	e.t.Helper()
	if _, err := e.Revoke(e.t.Context(), node); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) revoked(node string) bool {
	e.t.Helper()
	r, err := e.Revocations(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	_, ok := r[node]
	return ok
}

func TestARevocationLastsAsLongAsWhatItRevokes(t *testing.T) {
	e := newEnv(t)
	// It was made when the configuration gave certificates a year, and its successor was not.
	long := Identity{Node: "long", Issued: e.at, Until: e.at.Add(366 * day), Renewable: e.at.Add(400 * day), CA: e.ca().Pin()}
	if err := e.Record(t.Context(), long, func(*Identity) error { return nil }); err != nil {
		t.Fatal(err)
	}
	e.issue("long")
	e.issue("early")
	e.revoke("early")
	if err := e.Forget(t.Context(), "early"); err != nil { // as a node that leaves is
		t.Fatal(err)
	}
	e.at = e.at.Add(96 * day)
	e.issue("late")
	e.revoke("late")
	if !e.revoked("early") {
		t.Error("a revocation is gone while its certificate can still be renewed")
	}
	e.at = e.at.Add(2 * day)
	e.revoke("late")
	if e.revoked("early") || !e.revoked("late") {
		t.Error("a revocation of what can no longer be renewed is kept, or another one is gone")
	}
	e.revoke("long")
	e.at = e.at.Add(290 * day)
	e.issue("last")
	e.revoke("last")
	if !e.revoked("long") {
		t.Error("the revocation of a certificate with a long life went with those of short ones")
	}
	e.at = e.at.Add(111 * day)
	e.revoke("last")
	if e.revoked("long") {
		t.Error("the revocation of a certificate with a long life is kept for ever")
	}
}

func TestRevocationsDoNotFillTheSecret(t *testing.T) {
	e := newEnv(t)
	e.issue("edge")
	for i := range 150 {
		e.at = e.at.Add(day)
		e.revoke(fmt.Sprintf("edge-%d", i))
		e.revoke("edge")
	}
	x, err := e.get(t.Context(), RevocationSecret)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(x.Data); n > 101 {
		t.Errorf("%d entries after one a day for 150 days, expected those of 98 days", n)
	}
}

func (e *env) token(uses int, life time.Duration) string {
	e.t.Helper()
	b, err := e.NewToken(e.t.Context(), TokenRequest{Nodes: "*", MaxUses: uses, Life: life})
	if err != nil {
		e.t.Fatal(err)
	}
	return b.ID
}

func (e *env) use(id, key string) {
	e.t.Helper()
	if err := e.UseToken(e.t.Context(), id, "edge", key); err != nil {
		e.t.Fatal(err)
	}
}

func TestTokensThatAreWorthNothingGoAfterADay(t *testing.T) {
	e := newEnv(t)
	expired, usedUp, halfUsed, unbounded := e.token(1, time.Hour), e.token(1, 30*day), e.token(2, 30*day), e.token(0, 30*day)
	e.use(usedUp, "a")
	e.use(halfUsed, "a")
	e.use(unbounded, "a")
	there := func() (ids []string) {
		e.token(1, time.Minute) // whoever makes one prunes
		tokens, err := e.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range tokens {
			ids = append(ids, x.ID)
		}
		return ids
	}
	e.at = e.at.Add(23 * time.Hour)
	if ids := there(); !slices.Contains(ids, expired) || !slices.Contains(ids, usedUp) {
		t.Error("a token is gone within a day: who tries it does not hear why it is worth nothing")
	}
	e.at = e.at.Add(3 * time.Hour)
	ids := there()
	if slices.Contains(ids, expired) || slices.Contains(ids, usedUp) {
		t.Error("a token that expired or was used up a day ago is still there")
	}
	if !slices.Contains(ids, halfUsed) || !slices.Contains(ids, unbounded) {
		t.Error("a token that can still be used is gone")
	}
}

// A revocation is dropped once what it revokes can no longer be renewed. More time for that, given later, brings it not
// back: the node's record remembers.
func TestARecordRemembersItsRevocation(t *testing.T) {
	e := newEnv(t)
	first := e.issue("old")
	e.revoke("old")
	e.at = e.at.Add(98 * day)
	e.issue("other")
	e.revoke("other")
	if e.revoked("old") {
		t.Fatal("the revocation is kept")
	}
	held := func() *Identity {
		t.Helper()
		id, err := e.Identity(t.Context(), "old")
		if err != nil || id == nil {
			t.Fatalf("%v, %v", id, err)
		}
		return id
	}
	if held().Valid(first.Issued) {
		t.Error("a certificate that was revoked is valid by the record")
	}
	next := e.issue("old")
	if id := held(); id.Valid(first.Issued) || !id.Valid(next.Issued) {
		t.Errorf("after it joined again the record says %+v", id)
	}
	// A record is revoked, never made.
	if err := e.Forget(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if err := e.revokeRecord(t.Context(), "old", e.at); err != nil {
		t.Fatal(err)
	}
	if id, err := e.Identity(t.Context(), "old"); err != nil || id != nil {
		t.Errorf("a revocation made %+v, %v", id, err)
	}
}
