package session

import "testing"

// Of the versions that both ends speak the highest is taken (I12).
func TestTheHighestCommonVersionIsTaken(t *testing.T) {
	for _, c := range []struct {
		ours, theirs []uint32
		want         uint32
	}{
		{[]uint32{1}, []uint32{1}, 1}, {[]uint32{1, 2, 3}, []uint32{2, 1}, 2}, {[]uint32{3, 2, 1}, []uint32{1, 2}, 2}, {[]uint32{2, 5}, []uint32{5, 9, 2}, 5},
		{[]uint32{1}, []uint32{2}, 0}, {nil, []uint32{1}, 0}, {[]uint32{1}, nil, 0}, {[]uint32{0}, []uint32{0}, 0},
	} {
		got, ok := highestCommon(c.ours, c.theirs)
		if got != c.want || ok != (c.want > 0) {
			t.Errorf("%v and %v: version %d, %v; expected %d", c.ours, c.theirs, got, ok, c.want)
		}
	}
}
