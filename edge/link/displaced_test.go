package link

import (
	"testing"
	"time"

	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/wire"
)

// Only where somebody else has the node's session is there reason to say all again: a revoked certificate is none.
func TestWhatTellsOfAnotherMachine(t *testing.T) {
	for _, c := range []struct {
		end  session.Close
		want bool
	}{
		{session.Close{Reason: wire.Reason_REASON_REPLACED}, true},
		{session.Close{Reason: wire.Reason_REASON_REFUSED, ComeBack: 5 * time.Second}, true},
		{session.Close{Reason: wire.Reason_REASON_REFUSED}, false},
		{session.Close{Reason: wire.Reason_REASON_PROTOCOL, ComeBack: time.Second}, false},
		{session.Close{Reason: wire.Reason_REASON_UNSPECIFIED}, false},
	} {
		l := &Link{}
		if err := (&peer{l: l}).closed(c.end); err == nil || l.displaced != c.want {
			t.Errorf("%+v: displaced %t, expected %t; error %v", c.end, l.displaced, c.want, err)
		}
	}
}
