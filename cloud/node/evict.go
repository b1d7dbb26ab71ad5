package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// AnnotationEvict on a Pod or a Namespace says whether pods may be evicted because their edge cannot be reached: "true"
// leaves their tolerations as they are, so that it happens as on any other node, "false" is what holds without it. A pod's
// own word counts before its namespace's. It counts once, when the pod is bound: the time that a toleration lost is not known
// any more.
const AnnotationEvict = "tether.io/evict"

// evictable says whether the people whose pod it is want it evicted from an edge that cannot be reached; known is false
// where its namespace would say so and the cache does not have it.
func (k *Keeper) evictable(p *corev1.Pod) (evictable, known bool) {
	if said, ok := k.evictWord(object.Key{Kind: object.Pods, Namespace: p.Namespace, Name: p.Name}, p.Annotations); ok {
		return said, true
	}
	key := object.Key{Kind: object.Namespaces, Name: p.Namespace}
	o, ok := k.deps.Cache.Object(key)
	if !ok {
		return false, false
	}
	said, _ := k.evictWord(key, o.GetAnnotations())
	return said, true
}

// evictWord reads AnnotationEvict. What is neither of its values is as if it were not there, and is told.
func (k *Keeper) evictWord(of object.Key, annotations map[string]string) (evict, ok bool) {
	switch word, there := annotations[AnnotationEvict]; {
	case !there:
		return false, false
	case word == "true" || word == "false":
		return word == "true", true
	default:
		k.deps.Log.Warn("an annotation is not heeded: expected true or false", "annotation", AnnotationEvict, "of", of.String(), "found", fmt.Sprintf("%.40s", word))
		return false, false
	}
}

// syncNamespace looks again at the pods that waited for a namespace, and at all of one that no longer has its pods evicted.
func (k *Keeper) syncNamespace(_ context.Context, key object.Key) (time.Duration, error) {
	k.release(key)
	evicts := false
	if o, ok := k.deps.Cache.Object(key); ok {
		evicts, _ = k.evictWord(key, o.GetAnnotations())
	}
	k.mu.Lock()
	_, evicted := k.evicting[key.Name]
	if evicts {
		k.evicting[key.Name] = struct{}{}
	} else {
		delete(k.evicting, key.Name)
	}
	k.mu.Unlock()
	if !evicted || evicts {
		return 0, nil
	}
	for _, pod := range k.deps.Cache.Keys(object.Pods) {
		if pod.Namespace == key.Name {
			k.pods.Add(pod)
		}
	}
	return 0, nil
}
