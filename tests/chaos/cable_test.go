package chaos

import (
	"testing"
	"time"

	"github.com/tether-edge/tether/tests/netem"
)

// TestTroublesAddUp: two troubles of one cable are worse than either, and none is none.
func TestTroublesAddUp(t *testing.T) {
	far := netem.Settings{Delay: time.Second, Rate: 8000}
	for _, c := range []struct{ a, b, want netem.Settings }{
		{netem.Settings{}, netem.Settings{}, netem.Settings{}},
		{far, netem.Settings{}, far},
		{netem.Settings{}, far, far},
		{far, netem.Settings{Delay: time.Second, Rate: 16000, NoUDP: true}, netem.Settings{Delay: 2 * time.Second, Rate: 8000, NoUDP: true}},
		{netem.Settings{Loss: 0.5}, netem.Settings{Loss: 0.5}, netem.Settings{Loss: 0.75}},
		{netem.Settings{Loss: 1}, netem.Settings{Loss: 0.1}, netem.Settings{Loss: 1}},
	} {
		if got := add(c.a, c.b); got != c.want {
			t.Errorf("%+v and %+v make %+v, expected %+v", c.a, c.b, got, c.want)
		}
	}
}
