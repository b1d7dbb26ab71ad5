package upstream

import (
	"encoding/json"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/tether-edge/tether/common/object"
)

const (
	strategicPatchType = string(types.StrategicMergePatchType)
	mergePatchType     = string(types.MergePatchType)
)

// A patch turns one state of an object into another.
type patch struct {
	contentType string
	body        []byte
	// empty: nothing differs. The body then holds the preconditions only.
	empty bool
}

// makePatch returns the patch of the status subresource that turns current into desired, with current's uid and
// resourceVersion as preconditions. It is a strategic merge patch, which leaves alone what this version of the types
// does not know (a new field of a condition that a controller wrote). That form cannot express every list: two
// addresses of one type collide on their merge key. So it is applied here first, and where it does not give desired,
// a JSON merge patch, which replaces whole lists, is taken.
func makePatch(current, desired object.Object) (patch, error) {
	before, after, lookup, err := writable(current, desired)
	if err != nil {
		return patch{}, err
	}
	if apiequality.Semantic.DeepEqual(before, after) {
		p, err := seal(mergePatchType, map[string]any{}, current)
		p.empty = true
		return p, err
	}
	from, err := json.Marshal(before)
	if err != nil {
		return patch{}, fmt.Errorf("encode current object: %w", err)
	}
	to, err := json.Marshal(after)
	if err != nil {
		return patch{}, fmt.Errorf("encode desired object: %w", err)
	}
	body, contentType := strategic(from, to, lookup, after), strategicPatchType
	if body == nil {
		contentType = mergePatchType
		if body, err = mergeDiff(from, to); err != nil {
			return patch{}, err
		}
	}
	empty := len(body) == 0
	p, err := seal(contentType, body, current)
	p.empty = empty
	return p, err
}

// strategic returns a strategic merge patch that was seen to work, or nil.
func strategic(from, to []byte, lookup strategicpatch.PatchMetaFromStruct, after object.Object) map[string]any {
	raw, err := strategicpatch.CreateTwoWayMergePatchUsingLookupPatchMeta(from, to, lookup)
	if err != nil {
		return nil
	}
	result, err := strategicpatch.StrategicMergePatchUsingLookupPatchMeta(from, raw, lookup)
	if err != nil {
		return nil
	}
	got := reflect.New(reflect.TypeOf(after).Elem()).Interface()
	want := reflect.New(reflect.TypeOf(after).Elem()).Interface()
	// Both sides go through JSON, which keeps times to the second.
	if json.Unmarshal(result, got) != nil || json.Unmarshal(to, want) != nil || !apiequality.Semantic.DeepEqual(got, want) {
		return nil
	}
	var body map[string]any
	if json.Unmarshal(raw, &body) != nil {
		return nil
	}
	if body == nil {
		body = map[string]any{}
	}
	return body
}

// writable returns the parts of both objects that a kubelet may write.
func writable(current, desired object.Object) (before, after object.Object, lookup strategicpatch.PatchMetaFromStruct, err error) {
	switch c := current.(type) {
	case *corev1.Pod:
		d, ok := desired.(*corev1.Pod)
		if !ok {
			return nil, nil, lookup, errNoStatus
		}
		before, after = &corev1.Pod{Status: c.Status}, &corev1.Pod{Status: d.Status}
	case *corev1.Node:
		d, ok := desired.(*corev1.Node)
		if !ok {
			return nil, nil, lookup, errNoStatus
		}
		before = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: c.Labels, Annotations: c.Annotations}, Status: c.Status}
		after = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: d.Labels, Annotations: d.Annotations}, Status: d.Status}
	default:
		return nil, nil, lookup, errNoStatus
	}
	lookup, err = strategicpatch.NewPatchMetaFromStruct(before)
	if err != nil {
		return nil, nil, lookup, fmt.Errorf("patch rules of %T: %w", before, err)
	}
	return before, after, lookup, nil
}

// seal adds the preconditions.
func seal(contentType string, body map[string]any, current object.Object) (patch, error) {
	meta, _ := body["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		body["metadata"] = meta
	}
	meta["uid"], meta["resourceVersion"] = string(current.GetUID()), current.GetResourceVersion()
	raw, err := json.Marshal(body)
	if err != nil {
		return patch{}, fmt.Errorf("encode patch: %w", err)
	}
	return patch{contentType: contentType, body: raw}, nil
}

// mergeDiff returns the JSON merge patch (RFC 7386) from one JSON object to another.
func mergeDiff(from, to []byte) (map[string]any, error) {
	var a, b map[string]any
	if err := json.Unmarshal(from, &a); err != nil {
		return nil, fmt.Errorf("decode current object: %w", err)
	}
	if err := json.Unmarshal(to, &b); err != nil {
		return nil, fmt.Errorf("decode desired object: %w", err)
	}
	return diffMaps(a, b), nil
}

func diffMaps(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for k, want := range b {
		have, ok := a[k]
		if want == nil || (ok && reflect.DeepEqual(have, want)) {
			continue
		}
		wantMap, isMap := want.(map[string]any)
		haveMap, wasMap := have.(map[string]any)
		if !isMap {
			out[k] = want
		} else if d := diffMaps(haveMap, wantMap); len(d) > 0 || !wasMap {
			out[k] = d
		}
	}
	for k, have := range a {
		if have != nil && b[k] == nil {
			out[k] = nil
		}
	}
	return out
}
