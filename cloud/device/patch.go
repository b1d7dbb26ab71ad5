package device

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// makePatch returns the JSON merge patch from current to desired, with current's uid and resourceVersion as preconditions; nil
// where nothing differs. It names only what CloudCore writes, so fields of a newer definition stay. With untrack it drops managedFields
// along: see oursAlone.
func makePatch(current, desired *v1beta1.DeviceStatus, untrack bool) ([]byte, error) {
	status := map[string]any{}
	set := func(field string, was, is any) {
		if !apiequality.Semantic.DeepEqual(was, is) {
			status[field] = is
		}
	}
	a, b := &current.Status, &desired.Status
	set("twins", a.Twins, b.Twins)
	set("state", a.State, b.State)
	set("lastOnlineTime", a.LastOnlineTime, b.LastOnlineTime)
	set("conditions", a.Conditions, b.Conditions)
	meta := map[string]any{}
	annotations := map[string]any{}
	for _, key := range []string{AnnotationNode, AnnotationReport} {
		was, is := current.Annotations[key], desired.Annotations[key]
		if was == is {
			continue
		}
		if annotations[key] = is; is == "" {
			annotations[key] = nil
		}
	}
	if len(annotations) > 0 {
		meta["annotations"] = annotations
	}
	if !apiequality.Semantic.DeepEqual(current.OwnerReferences, desired.OwnerReferences) {
		meta["ownerReferences"] = desired.OwnerReferences
	}
	if len(status) == 0 && len(meta) == 0 {
		return nil, nil
	}
	meta["uid"], meta["resourceVersion"] = current.UID, current.ResourceVersion
	if untrack {
		meta["managedFields"] = []struct{}{{}}
	}
	body := map[string]any{"metadata": meta}
	if len(status) > 0 {
		body["status"] = status
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	return raw, nil
}

// oursAlone reports that managedFields say of every field that CloudCore wrote it, which helps nobody. For each twin they take more room than
// its value, and the API server spends a third of the time of a write on them. Once dropped they stay away until somebody applies the object;
// then they say whose is what, and stay.
func oursAlone(fields []metav1.ManagedFieldsEntry) bool {
	return len(fields) > 0 && !slices.ContainsFunc(fields, func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager != fieldManager || f.Operation != metav1.ManagedFieldsOperationUpdate
	})
}

// print is a fingerprint of what a node reported; empty where none did.
type print string

// printOf returns that of a DeviceStatus.
func printOf(s *v1beta1.DeviceStatus) (print, error) {
	if reporter(s) == "" {
		return "", nil
	}
	raw, err := encodeSaid(s)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append(raw, s.UID...))
	return print(sum[:]), nil
}
