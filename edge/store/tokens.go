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
	ms := millis(expires)
	return s.write(ctx, &request{op: "save a token", durable: true, do: func(t *tx) error {
		t.changed = true
		_, err := t.c.exec("INSERT OR REPLACE INTO tokens (key, pod_uid, expires, key_id, sum, body) VALUES (?,?,?,?,?,?)",
			key, podUID, ms, plain, sumToken(key, podUID, ms, body), body)
		return err
	}})
}

// LoadToken returns what SaveToken kept, expired or not. ok is false if there is nothing.
func (s *Store) LoadToken(ctx context.Context, key string) (body []byte, expires time.Time, ok bool, err error) {
	err = s.read(ctx, "load a token", func(c *conn) error {
		return c.query("SELECT key, pod_uid, expires, key_id, sum, body FROM tokens WHERE key = ?", []any{key},
			func(scan func(...any) error) error {
				row, err := scanToken(scan)
				if err != nil {
					return err
				}
				body, expires, ok = row.body, fromMillis(row.expires), true
				return nil
			})
	})
	return body, expires, ok, err
}

type tokenRow struct {
	key, podUID  string
	expires, sum int64
	body         []byte
}

func scanToken(scan func(...any) error) (tokenRow, error) {
	var r tokenRow
	var keyID int64
	if err := scan(&r.key, &r.podUID, &r.expires, &keyID, &r.sum, &r.body); err != nil {
		return r, ours(err)
	}
	if err := checkKeyID(keyID); err != nil {
		return r, fmt.Errorf("token: %w", err)
	}
	if sumToken(r.key, r.podUID, r.expires, r.body) != r.sum {
		return r, fmt.Errorf("token: %w", errSum)
	}
	return r, nil
}

// sweepTokens erases tokens whose pod is gone: one that was fetched while its pod went is saved after the erasure.
func (s *Store) sweepTokens(ctx context.Context) error {
	return s.write(ctx, &request{op: "erase left-over tokens", do: func(t *tx) error {
		_, err := t.c.exec("DELETE FROM tokens WHERE pod_uid != '' AND pod_uid NOT IN "+
			"(SELECT uid FROM objects WHERE kind = 'pods' AND tombstone = 0) OR pod_uid = '' AND expires <= ?", millis(t.now))
		return err
	}})
}
