package node

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzRestore reads copies that anybody may have written into a Lease: what comes of one is that node's own Node and an
// edge's, and the copy of it gives it back.
func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"providerID":"tether://n1","labels":{"zone":"a"},"annotations":{"owner":"x"},"podCIDRs":["10.1.0.0/24"],"unschedulable":true}`))
	f.Add([]byte(`{"providerID":"tether://n1","taints":[{"key":"z","effect":"NoSchedule","timeAdded":"2026-01-01T00:00:00Z"},{"key":"node.kubernetes.io/not-ready"},{"key":"a"},{"key":"a","value":"2"}]}`))
	f.Add([]byte(`{"providerID":"tether://n2"}`))
	f.Add([]byte(`{"providerID":"tether://n1","name":"n2","metadata":{"name":"n2"},"spec":{"externalID":"x"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := restore("n1", raw)
		if err != nil {
			if n != nil {
				t.Errorf("an error and a Node: %v", err)
			}
			return
		}
		if n.Name != "n1" || n.Namespace != "" || n.UID != "" || len(n.OwnerReferences) > 0 || len(n.Finalizers) > 0 {
			t.Errorf("the copy of n1 gives %+v, expected n1 and nothing else of an identity", n.ObjectMeta)
		}
		if n.Spec.ProviderID != ProviderIDPrefix+"n1" || !IsEdge(n) {
			t.Errorf("the copy of n1 gives providerID %q, expected %sn1", n.Spec.ProviderID, ProviderIDPrefix)
		}
		first, err := makeCopy(n)
		if err != nil {
			return // too large
		}
		again, err := restore("n1", first)
		if err != nil {
			t.Fatalf("the copy %s of a restored Node cannot be read: %v", first, err)
		}
		second, err := makeCopy(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("the copy changes each time (%v): %s", err, cmp.Diff(string(first), string(second)))
		}
	})
}
