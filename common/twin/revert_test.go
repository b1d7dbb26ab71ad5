package twin

import (
	"reflect"
	"testing"
)

func TestAStepThatIsRevertedNeverWas(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("a", "1"), wants("b", "2"))
	l.apply(map[string]Update{"a": report("5"), "client": report("7")})
	before := l.twin.Now()
	first := l.apply(map[string]Update{"a": desire("9"), "new": desire("3"), "client": {Remove: true}})
	second := l.declare(wants("b", "8"))
	l.twin.Revert(second)
	l.twin.Revert(first)
	if got := l.twin.Now(); !reflect.DeepEqual(got, before) {
		t.Errorf("it is %+v, expected %+v", got, before)
	}
}
