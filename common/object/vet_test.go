package object

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A few bytes of each of these cost minutes or hundreds of MiB to decode.
func TestAnOverlayThatCostsWithoutBoundIsRefusedBeforeItIsDecoded(t *testing.T) {
	for name, c := range map[string]struct{ body, says string }{
		"a far exponent":         {`{"node":{"capacity":{"cpu":"1e999999999999"}}}`, "exponent"},
		"a far exponent below 0": {`{"node":{"allocatable":{"cpu":"123456789012345678901e-999999"}}}`, "exponent"},
		"a number":               {`{"node":{"capacity":{"cpu":123456789012345678901E+999999}}}`, "exponent"},
		"another spelling":       {`{"Node":{"\u0063ApaCity":{"cpu":"1e999999999999"}}}`, "exponent"},
		"in a container":         {`{"pod":{"containerStatuses":[{"resources":{"limits":{"cpu":"1e999999999999"}}}]}}`, "exponent"},
		"many digits":            {`{"node":{"capacity":{"cpu":"` + strings.Repeat("9", 65) + `"}}}`, "at most 64 bytes"},
		"many empty entries":     {`{"pod":{"containerStatuses":[{}` + strings.Repeat(",{}", maxValues) + `]}}`, "more than 10000 values"},
		"many empty lists":       {strings.Repeat("[", maxValues+1), "more than 10000 values"},
		"cut":                    {`{"pod":{`, "EOF"},
	} {
		if _, err := DecodeOverlay([]byte(c.body)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, expected an error that says %q", name, err, c.says)
		}
	}
	for _, ok := range []string{
		`{"node":{"capacity":{"cpu":"2","memory":"16Ei","e":"1e3","f":"5E","g":"1e+30"}}}`,
		`{"node":{"nodeInfo":{"machineID":"1e999999999999"}},"labels":{"capacity":"1e999999999999"}}`,
		`{"node":{"capacity":{"memory":"1Gi","ephemeral-storage":"1"}},"capacity":["memory","ephemeral-storage"],"allocatable":["memory"]}`,
		`{"pod":{"containerStatuses":[` + strings.Repeat(`{"name":"a","state":{}},`, 2000) + `{}]}}`,
	} {
		if _, err := DecodeOverlay([]byte(ok)); err != nil {
			t.Errorf("%.80s: %v", ok, err)
		}
	}
}

func TestMoreValuesMayBeAllowed(t *testing.T) {
	body := []byte("[1" + strings.Repeat(",1", maxValues) + "]")
	if err := Vet(body); err == nil || !strings.Contains(err.Error(), "more than 10000 values") {
		t.Errorf("got %v", err)
	}
	if err := VetValues(body, maxValues+2); err != nil {
		t.Error(err)
	}
	if err := VetValues(body, maxValues+1); err == nil || !strings.Contains(err.Error(), "more than 10001 values") {
		t.Errorf("got %v", err)
	}
}

// A quantity in a field that this version does not watch would open the gap again.
func TestEveryQuantityOfANodeOrAStatusIsBehindAKnownKey(t *testing.T) {
	seen, found := map[reflect.Type]bool{}, 0
	var walk func(at string, t reflect.Type)
	walk = func(at string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(at, typ.Elem())
		case reflect.Map:
			if typ.Elem() != reflect.TypeFor[resource.Quantity]() {
				walk(at+"[]", typ.Elem())
				return
			}
			found++
			if key := at[strings.LastIndex(at, ".")+1:]; !isQuantityKey(key) {
				t.Errorf("%s holds quantities, and is not among quantityKeys", at)
			}
		case reflect.Struct:
			if typ == reflect.TypeFor[resource.Quantity]() {
				t.Errorf("%s is a quantity outside of a map, which Vet does not look at", at)
			}
			if seen[typ] {
				return
			}
			seen[typ] = true
			for f := range typ.Fields() {
				if !f.IsExported() {
					continue
				}
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name == "" {
					walk(at, f.Type)
				} else {
					walk(at+"."+name, f.Type)
				}
			}
		}
	}
	walk("node", reflect.TypeFor[corev1.Node]())
	walk("pod", reflect.TypeFor[corev1.PodStatus]())
	walk("overlay", reflect.TypeFor[Overlay]())
	if found < 5 {
		t.Errorf("found %d places of quantities, expected those of Nodes and of containers at least", found)
	}
}
