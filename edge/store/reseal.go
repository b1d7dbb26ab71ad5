package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tether-edge/tether/common/object"
)

// reseal seals with the present key, at Open, what is plain or sealed with a former key, and has keys forgotten with which
// nothing is sealed any more. Where something could not be done, a full disk being the usual reason, the next start does it:
// nothing is lost, and the node must come up.
func (s *Store) reseal(c *conn) error {
	if s.sealing == nil {
		return nil
	}
	if err := s.countUnreadable(c); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(*conn) error
	}{
		{"seal what is stored", s.resealRows},
		{"seal the second copy", s.resealCopy},
		{"forget former keys", s.forgetKeys},
	} {
		err := step.do(c)
		if isDamage(err) {
			return wrap(step.what, err)
		}
		if err != nil {
			s.log.Error("stored Secrets and tokens are not all sealed with the present key, the next start tries again", "what", step.what, "error", err)
			return nil
		}
	}
	return nil
}

// countUnreadable says what cannot be opened.
func (s *Store) countUnreadable(c *conn) error {
	n, err := s.unreadable(c)
	if err != nil {
		return err
	}
	s.status.Unreadable = n
	s.metrics.unreadable.Set(float64(s.status.Unreadable))
	if s.status.Unreadable > 0 {
		s.log.Error("stored Secrets and tokens cannot be opened, their key is lost: pods that need them wait for the next link to the cloud, which sends them again",
			"rows", s.status.Unreadable)
	}
	return nil
}

// unreadable returns how many rows cannot be opened.
func (s *Store) unreadable(c *conn) (all int, err error) {
	for _, t := range []string{"objects", "tokens"} {
		n, err := c.number("SELECT count(*) FROM " + t + " WHERE NOT " + s.sealing.readable())
		if err != nil {
			return 0, wrap("count sealed rows", err)
		}
		all += int(n)
	}
	return all, nil
}

// former is the SQL condition of rows that can be opened and are not sealed with the present key.
func (s *Store) former() string {
	return fmt.Sprintf("key_id != %d AND %s", s.sealing.present(), s.sealing.readable())
}

func (s *Store) resealRows(c *conn) error {
	return c.transaction(func() error {
		var records []*object.Record
		if err := c.query(selectKind+" AND "+s.former(), []any{string(object.Secrets)}, func(scan func(...any) error) error {
			r, err := c.scanRecord(scan)
			records = append(records, r)
			return err
		}); err != nil {
			return err
		}
		for _, r := range records {
			if err := c.put(r); err != nil {
				return err
			}
		}
		var tokens []*tokenRow
		if err := c.query("SELECT "+tokenColumns+" FROM tokens WHERE "+s.former(), nil, func(scan func(...any) error) error {
			r, err := scanToken(scan)
			if err != nil {
				return err
			}
			r.body, _, err = s.sealing.openToken(r)
			tokens = append(tokens, r)
			return err
		}); err != nil {
			return err
		}
		for _, r := range tokens {
			s.sealing.sealToken(r)
			if err := c.putToken(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// resealCopy makes the second copy anew if it holds what the present key did not seal.
func (s *Store) resealCopy(*conn) error {
	if !exists(s.files.copy()) {
		return nil
	}
	ids, err := s.copyKeys()
	if err == nil && !slices.ContainsFunc(ids, func(id int64) bool { return id != s.sealing.present() && s.sealing.has(id) }) {
		return nil
	}
	return s.renewCopy()
}

// renewCopy makes the second copy anew. One of a database that never was synced would be worth nothing.
func (s *Store) renewCopy() error {
	if s.EverSynced() {
		return s.copyTo(s.files.copy())
	}
	return removeDatabase(s.files.copy())
}

// forgetKeys has the Sealer forget the keys of which there are no rows.
func (s *Store) forgetKeys(c *conn) error {
	ids, err := usedKeys(c)
	if err != nil {
		return err
	}
	if exists(s.files.copy()) {
		more, err := s.copyKeys()
		if err != nil {
			return err
		}
		ids = append(ids, more...)
	}
	return s.sealing.by.Keep(ids)
}

func (s *Store) copyKeys() (ids []int64, err error) {
	c, err := openConn(s.files.copy(), modeReadOnly)
	if err != nil {
		return nil, err
	}
	ids, err = usedKeys(c)
	return ids, errors.Join(err, c.close())
}

// usedKeys returns the key ids of the rows that are to be sealed.
func usedKeys(c *conn) (ids []int64, err error) {
	err = c.query("SELECT key_id FROM objects WHERE kind = ? UNION SELECT key_id FROM tokens", []any{string(object.Secrets)}, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, wrap("list the keys in use", err)
}

// dropUnreadable removes what cannot be opened, once the cloud has sent all that there is. What is kept for held pods stays: the
// cloud has it no more, and its key may come back.
func (t *tx) dropUnreadable(kind object.ID) error {
	if !sealedKind(kind) || t.s.sealing == nil {
		return nil
	}
	unreadable := " NOT " + t.s.sealing.readable()
	var rows []*object.Record
	if err := t.c.query(selectKind+" AND"+unreadable, []any{string(kind)}, func(scan func(...any) error) error {
		r, err := t.c.scanRecord(scan)
		rows = append(rows, r)
		return err
	}); err != nil {
		return wrap("read sealed rows without a key", err)
	}
	for _, r := range rows {
		if keep, err := t.keptSealed(r); err != nil || keep {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := t.drop(r); err != nil {
			return err
		}
	}
	if _, err := t.c.exec("DELETE FROM tokens WHERE" + unreadable +
		" AND pod_uid NOT IN (SELECT uid FROM objects WHERE kind = 'pods' AND held & 1 = 1)"); err != nil {
		return wrap("remove sealed tokens without a key", err)
	}
	t.changed = true
	left, err := t.s.unreadable(t.c)
	t.s.metrics.unreadable.Set(float64(left))
	return err
}

// keptSealed reports whether a row that cannot be opened is one of those that the cloud lost and that stay for held pods.
func (t *tx) keptSealed(r *object.Record) (bool, error) {
	if r.Held {
		return true, nil
	}
	refs, err := t.references()
	if err != nil {
		return false, err
	}
	return refs.held(r.Key), nil
}
