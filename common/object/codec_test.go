package object

import (
	"reflect"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestCustomKindsTravelAsJSON(t *testing.T) {
	kind, ok := Lookup(Devices)
	if !ok || !kind.Custom || !kind.Optional {
		t.Fatalf("devices: %+v, %v", kind, ok)
	}
	d := &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "d", UID: "u"}, Spec: v1beta1.DeviceSpec{NodeName: "n",
		Protocol: &v1beta1.ProtocolConfig{ProtocolName: "p", ConfigData: &runtime.RawExtension{Raw: []byte(`{"a":{"b":[1,2.5,null]}}`)}}}}
	body, err := Encode(kind, d)
	if err != nil || !strings.HasPrefix(string(body), `{`) || d.Kind != "" {
		t.Fatalf("encoded %q, %v; the object's own kind became %q", body, err, d.Kind)
	}
	got, err := Decode(kind, body)
	if err != nil {
		t.Fatal(err)
	}
	d.SetGroupVersionKind(kind.GroupVersionKind)
	if !reflect.DeepEqual(got, d) {
		t.Errorf("it came back as %+v, expected %+v", got, d)
	}
	for _, bad := range []string{"", "{", "null", `{"apiVersion":"v1","kind":"Pod"}`, `{"apiVersion":"devices.kubeedge.io/v1beta1","kind":"Device","spec":7}`} {
		if o, err := Decode(kind, []byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, o)
		}
	}
}
