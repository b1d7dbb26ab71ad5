package store

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// references are the keys that stored pods refer to. Tombstoned pods refer to nothing.
type references struct {
	byHeld, byLive         map[object.Key]bool
	heldSpaces, liveSpaces map[string]bool // namespaces with pods: their Services become environment variables
	anyHeld, anyLive       bool
}

// kubernetesService is visible in every pod.
var kubernetesService = object.Key{Kind: object.Services, Namespace: "default", Name: "kubernetes"}

// released are the kinds that are kept for the sake of pods, and let go when no pod refers to them any more.
var released = []object.ID{object.Services, object.ServiceAccounts, object.ConfigMaps, object.Secrets,
	object.PersistentVolumeClaims, object.PersistentVolumes, object.ResourceClaims}

// held reports whether a held pod refers to k; live, whether another one does.
func (r *references) held(k object.Key) bool {
	return refers(k, r.byHeld, r.heldSpaces, r.anyHeld)
}

func (r *references) live(k object.Key) bool {
	return refers(k, r.byLive, r.liveSpaces, r.anyLive)
}

func refers(k object.Key, keys map[object.Key]bool, spaces map[string]bool, any bool) bool {
	if k.Kind == object.Services {
		return spaces[k.Namespace] || any && k == kubernetesService
	}
	return keys[k]
}

// references reads all pods, once until a pod changes in the transaction.
func (t *tx) references() (*references, error) {
	if t.refs != nil {
		return t.refs, nil
	}
	refs := &references{byHeld: map[object.Key]bool{}, byLive: map[object.Key]bool{},
		heldSpaces: map[string]bool{}, liveSpaces: map[string]bool{}}
	kind, _ := object.Lookup(object.Pods)
	var pods []*object.Record
	if err := t.c.query(selectKind, []any{string(object.Pods)}, func(scan func(...any) error) error {
		r, err := t.c.scanRecord(scan)
		if err == nil && !r.Tombstone {
			pods = append(pods, r)
		}
		return err
	}); err != nil {
		return nil, wrap("read pods", err)
	}
	for _, r := range pods {
		o, err := object.Decode(kind, r.Body)
		if err != nil {
			t.s.log.Error("stored pod does not decode: what it refers to is not kept for it", "key", r.Key.String(), "error", err)
			continue
		}
		keys, spaces, any := refs.byLive, refs.liveSpaces, &refs.anyLive
		if r.Held {
			keys, spaces, any = refs.byHeld, refs.heldSpaces, &refs.anyHeld
		}
		spaces[r.Key.Namespace], *any = true, true
		object.VisitReferences(o.(*corev1.Pod), func(k object.Key) { keys[k] = true })
	}
	for _, keys := range []map[object.Key]bool{refs.byHeld, refs.byLive} {
		if err := t.volumes(keys); err != nil {
			return nil, err
		}
	}
	t.refs = refs
	return refs, nil
}

// volumes adds the PersistentVolumes behind the claims in keys.
func (t *tx) volumes(keys map[object.Key]bool) error {
	kind, _ := object.Lookup(object.PersistentVolumeClaims)
	var found []object.Key
	for k := range keys {
		if k.Kind != object.PersistentVolumeClaims {
			continue
		}
		r, err := t.c.record(k)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		o, err := object.Decode(kind, r.Body)
		if err != nil {
			t.s.log.Error("stored claim does not decode: its volume is not kept", "key", k.String(), "error", err)
			continue
		}
		if name := o.(*corev1.PersistentVolumeClaim).Spec.VolumeName; name != "" {
			found = append(found, object.Key{Kind: object.PersistentVolumes, Name: name})
		}
	}
	for _, k := range found {
		keys[k] = true
	}
	return nil
}

// release removes held objects that no pod refers to any more, after a pod's row has gone.
func (t *tx) release() error {
	var rows []*object.Record
	for _, kind := range released {
		if err := t.c.query(selectKind+" AND held & 1 = 1", []any{string(kind)}, func(scan func(...any) error) error {
			r, err := t.c.scanRecord(scan)
			rows = append(rows, r)
			return err
		}); err != nil {
			return wrap("read held objects", err)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	refs, err := t.references()
	if err != nil {
		return err
	}
	for _, r := range rows {
		if refs.held(r.Key) || refs.live(r.Key) {
			continue
		}
		if _, err := t.drop(r); err != nil {
			return err
		}
		t.s.log.Info("held object released: no pod refers to it", "key", r.Key.String())
	}
	return nil
}
