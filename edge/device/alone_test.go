package device

import (
	"errors"
	"testing"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/twin"
)

func TestAClientsOwnPropertyHasValuesOfItsType(t *testing.T) {
	w := withPump(t, "")
	is := func(v string) *v1beta1.TwinProperty { return &v1beta1.TwinProperty{Value: v} }
	for _, c := range []struct {
		what   string
		update twin.Update
		err    error
	}{
		{"a number", twin.Update{Reported: is("5"), Type: v1beta1.Int}, nil},
		{"a word for a number", twin.Update{Reported: is("abc"), Type: v1beta1.Int}, ErrInvalid},
		{"a word desired of a number", twin.Update{Desired: is("abc"), Type: v1beta1.Int}, ErrInvalid},
		{"a word for what was a number before", twin.Update{Reported: is("abc")}, ErrInvalid},
		{"nothing desired", twin.Update{Desired: is("")}, nil},
		{"a word of a type that is none here", twin.Update{Reported: is("abc"), Type: "Updated"}, nil},
		{"a word again", twin.Update{Reported: is("abc")}, nil},
	} {
		if err := w.engine.Update(t.Context(), "ns", "p", map[string]twin.Update{"x": c.update}); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, expected %v", c.what, err, c.err)
		}
	}
}
