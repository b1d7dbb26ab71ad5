package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/tether-edge/tether/common/object"
)

// ID returns a random name of this database. A new one is made when the database is made, rebuilt or restored: outbox
// ids are unique within it.
func (s *Store) ID() string { return s.id }

// Epoch returns what SetEpoch stored last, or "".
func (s *Store) Epoch() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// SetEpoch stores the cloud's epoch. Where it was another one, the cluster may have gone back in time, to a state that
// lacks what the edge had written into it though the versions agree: every overlay is queued again.
func (s *Store) SetEpoch(ctx context.Context, epoch string) error {
	return s.write(ctx, &request{op: "set the epoch", durable: true, do: func(t *tx) error {
		before := s.Epoch()
		t.effects.epoch, t.changed = &epoch, true
		if before != "" && before != epoch {
			if err := t.assertAll(); err != nil {
				return err
			}
		}
		return t.c.setMeta(metaEpoch, epoch)
	}})
}

// AssertAll queues every overlay again, as where another machine spoke in this node's name.
func (s *Store) AssertAll(ctx context.Context) error {
	return s.write(ctx, &request{op: "assert all", durable: true, do: func(t *tx) error {
		t.changed = true
		return t.assertAll()
	}})
}

// assertAll queues every overlay again, but for those that ownPart doubts. The hub makes no request for those that the cluster shows
// already.
func (t *tx) assertAll() error {
	whole := t.s.isWhole()
	var keys []object.Key
	err := t.c.query("SELECT kind, namespace, name FROM objects WHERE overlay IS NOT NULL AND origin = 0 AND tombstone = 0 AND held & 1 = 0", nil,
		func(scan func(...any) error) error {
			var kind string
			var k object.Key
			err := scan(&kind, &k.Namespace, &k.Name)
			if k.Kind = object.ID(kind); whole || k.Kind != object.Pods {
				keys = append(keys, k)
			}
			return err
		})
	if err != nil {
		return wrap("list overlays", err)
	}
	for _, k := range keys {
		r, err := t.c.record(k)
		if err != nil {
			return err
		}
		if err := t.queueOverlay(k, r.Version.UID, r.Overlay); err != nil {
			return err
		}
	}
	return nil
}

// MarkSynced records that the store holds all that the cloud has of the kinds. Once so, a kind stays so.
func (s *Store) MarkSynced(ctx context.Context, kinds []object.ID) error {
	return s.write(ctx, &request{op: "mark kinds synced", durable: true, do: func(t *tx) error {
		for _, k := range kinds {
			if _, ok := object.Lookup(k); !ok {
				continue
			}
			if _, err := t.c.exec("INSERT OR IGNORE INTO kinds (kind) VALUES (?)", string(k)); err != nil {
				return fmt.Errorf("mark %s: %w", k, err)
			}
			if err := t.dropUnreadable(k); err != nil {
				return err
			}
			t.synced = append(t.synced, k)
		}
		if !slices.Contains(kinds, object.Pods) {
			return nil
		}
		_, err := t.c.exec("DELETE FROM meta WHERE name = ?", metaPartial)
		return wrap("note that no pod is missing", err)
	}})
}

// Whole is closed once no pod is missing that this node had before: from the start, unless the database was made anew from a
// copy that was older than what was lost, and then with the next completed sync.
func (s *Store) Whole() <-chan struct{} { return s.whole }

func (s *Store) isWhole() bool {
	select {
	case <-s.whole:
		return true
	default:
		return false
	}
}

// Synced reports whether the kind was completely received once: what is not in the store then does not exist. Kinds
// that the cloud never sends are always synced.
func (s *Store) Synced(kind object.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced[kind]
}

// EverSynced reports whether every kind was completely received once, optional ones aside.
func (s *Store) EverSynced() bool {
	select {
	case <-s.firstSync:
		return true
	default:
		return false
	}
}

// FirstSync is closed as soon as EverSynced is true: from then on the kubelet may be started (I8).
func (s *Store) FirstSync() <-chan struct{} { return s.firstSync }

// NextSync is closed when MarkSynced was done the next time. What could not be opened and what the cloud does not have is gone
// then; watchers hear nothing of that, since they never knew it.
func (s *Store) NextSync() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextSync
}

// markSynced takes kinds into memory. The caller holds mu.
func (s *Store) markSynced(kinds []object.ID) {
	for _, k := range kinds {
		s.synced[k] = true
	}
	close(s.nextSync)
	s.nextSync = make(chan struct{})
	for _, k := range object.Synced() {
		if !k.Optional && !s.synced[k.ID()] {
			return
		}
	}
	if !s.EverSynced() {
		close(s.firstSync)
	}
}

// noteWhole closes whole with the sync of pods. The caller holds mu.
func (s *Store) noteWhole(kinds []object.ID) {
	select {
	case <-s.whole:
	default:
		if slices.Contains(kinds, object.Pods) {
			close(s.whole)
		}
	}
}

// localKinds are those that the cloud never sends.
func localKinds() []object.ID { return []object.ID{object.Events, object.Leases} }
