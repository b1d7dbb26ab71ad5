package store

import (
	"context"
	"fmt"
	"time"
)

const eraseTokens = "DELETE FROM tokens WHERE pod_uid = ?"

// SaveToken keeps the answer to a TokenRequest under key (object.TokenKey) until the pod of that uid is gone. It
// replaces an older answer of that key. A token without a pod (podUID "") is kept until it expires.
func (s *Store) SaveToken(ctx context.Context, key, podUID string, body []byte, expires time.Time) error {
	if key == "" || body == nil {
		return fmt.Errorf("save a token: it needs a key and a body")
	}
	// The rest of the process knows milliseconds only; so does the checksum.
	r := &tokenRow{key: key, podUID: podUID, expires: millis(expires), body: body}
	return s.write(ctx, &request{op: "save a token", durable: true, do: func(t *tx) error {
		t.changed = true
		sealed := *r
		t.c.sealing.sealToken(&sealed)
		return t.c.putToken(&sealed)
	}})
}

// LoadToken returns what SaveToken kept, expired or not. ok is false if there is nothing, or nothing that can be opened.
func (s *Store) LoadToken(ctx context.Context, key string) (body []byte, expires time.Time, ok bool, err error) {
	err = s.read(ctx, "load a token", func(c *conn) error {
		return c.query("SELECT "+tokenColumns+" FROM tokens WHERE key = ?", []any{key}, func(scan func(...any) error) error {
			r, err := scanToken(scan)
			if err != nil {
				return err
			}
			expires = fromMillis(r.expires)
			body, ok, err = c.sealing.openToken(r)
			return err
		})
	})
	return body, expires, ok, err
}

// TokenKeys lists the tokens that can be loaded, the one that expires first at first.
func (s *Store) TokenKeys(ctx context.Context) (keys []string, err error) {
	err = s.read(ctx, "list tokens", func(c *conn) error {
		return c.query("SELECT key FROM tokens WHERE "+s.sealing.readable()+" ORDER BY expires, key", nil, func(scan func(...any) error) error {
			var key string
			err := scan(&key)
			keys = append(keys, key)
			return err
		})
	})
	return keys, err
}

// TokenEnds returns, by the uid of its pod, when the first of a pod's tokens that can be loaded ends.
func (s *Store) TokenEnds(ctx context.Context) (ends map[string]time.Time, err error) {
	err = s.read(ctx, "read when tokens end", func(c *conn) error {
		ends = map[string]time.Time{}
		return c.query("SELECT pod_uid, min(expires) FROM tokens WHERE pod_uid != '' AND "+s.sealing.readable()+" GROUP BY pod_uid", nil, func(scan func(...any) error) error {
			var uid string
			var expires int64
			err := scan(&uid, &expires)
			ends[uid] = fromMillis(expires)
			return err
		})
	})
	return ends, err
}

const tokenColumns = "key, pod_uid, expires, key_id, sum, body"

// A tokenRow is a row of table tokens as it is stored.
type tokenRow struct {
	key, podUID    string
	expires, keyID int64
	body           []byte
}

func scanToken(scan func(...any) error) (*tokenRow, error) {
	var r tokenRow
	var sum int64
	if err := scan(&r.key, &r.podUID, &r.expires, &r.keyID, &sum, &r.body); err != nil {
		return nil, ours(err)
	}
	if sumToken(&r) != sum {
		return nil, fmt.Errorf("token: %w", errSum)
	}
	return &r, nil
}

func (c *conn) putToken(r *tokenRow) error {
	c.touch(wornTokens, len(r.body))
	_, err := c.exec("INSERT OR REPLACE INTO tokens ("+tokenColumns+") VALUES (?,?,?,?,?,?)", r.key, r.podUID, r.expires, r.keyID, sumToken(r), r.body)
	return wrap("write a token", err)
}

// sweepTokens erases tokens whose pod is gone: one that was fetched while its pod went is saved after the erasure.
func (s *Store) sweepTokens(ctx context.Context) error {
	return s.write(ctx, &request{op: "erase left-over tokens", do: func(t *tx) error {
		_, err := t.c.exec("DELETE FROM tokens WHERE pod_uid != '' AND pod_uid NOT IN "+
			"(SELECT uid FROM objects WHERE kind = 'pods' AND tombstone = 0) OR pod_uid = '' AND expires <= ?", millis(t.now))
		return err
	}})
}
