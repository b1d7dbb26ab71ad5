package keadm

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// inOrderOf sorts items by a field of their objects: numbers and quantities by size, other texts by their letters. Those
// without the field come first, as with kubectl, and those that are equal stay as they are.
func inOrderOf[T any](field string, items []T, object func(T) runtime.Object) error {
	path, whole, err := fieldPath(field)
	if err != nil {
		return err
	}
	type keyed struct {
		item T
		key  any // nil without the field
	}
	list, there := make([]keyed, len(items)), false
	for i, item := range items {
		list[i].item = item
		o, ok := object(item).(*unstructured.Unstructured)
		if !ok {
			continue
		}
		found, err := path.FindResults(o.Object)
		if err != nil {
			return err
		}
		if len(found) > 0 && len(found[0]) > 0 {
			list[i].key, there = found[0][0].Interface(), true
		}
	}
	if !there {
		return fmt.Errorf("couldn't find any field with path %q in the list of objects", whole)
	}
	var failed error
	slices.SortStableFunc(list, func(a, b keyed) int {
		order, err := compareValues(a.key, b.key)
		if err != nil {
			failed = fmt.Errorf("--sort-by: %s: %w", field, err)
		}
		return order
	})
	for i := range list {
		items[i] = list[i].item
	}
	return failed
}

// compareValues compares what JSON has: nil is less than all others.
func compareValues(a, b any) (int, error) {
	if a == nil || b == nil {
		return cmp.Compare(present(a), present(b)), nil
	}
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return cmp.Compare(x, y), nil
		}
	case float64:
		if y, ok := b.(float64); ok {
			return cmp.Compare(x, y), nil
		}
	case string:
		if y, ok := b.(string); ok {
			return compareTexts(x, y), nil
		}
	}
	return 0, fmt.Errorf("expected numbers or texts to sort by, found %T and %T", a, b)
}

func present(v any) int {
	if v == nil {
		return 0
	}
	return 1
}

func compareTexts(x, y string) int {
	a, err := resource.ParseQuantity(x)
	if err != nil {
		return cmp.Compare(x, y)
	}
	b, err := resource.ParseQuantity(y)
	if err != nil {
		return cmp.Compare(x, y)
	}
	return a.Cmp(b)
}
