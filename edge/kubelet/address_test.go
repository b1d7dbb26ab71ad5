package kubelet

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
)

// A node whose address is not configured has the one of the default route, found without asking any name server. When the
// machine has moved for good, the process starts again with the other one, and that is no failed start.
func TestAnAddressThatIsNotConfiguredFollowsTheMachine(t *testing.T) {
	clock := newHandClock()
	tr := newTrial(t, t.TempDir(), clock)
	tr.cfg.NodeIP = ""
	var at atomic.Pointer[string]
	set := func(ip string) { at.Store(&ip) }
	tr.address = func() (net.IP, error) {
		if ip := *at.Load(); ip != "" {
			return net.ParseIP(ip), nil
		}
		return nil, errors.New("no route")
	}
	look := func() {
		eventually(t, "the next look at the address", func() bool { return clock.pending(addressEvery) == 1 })
		clock.advance(addressEvery)
	}
	set("192.168.1.5")
	(&fakeRuntime{}).serve(t, tr.cfg.RuntimeEndpoint)
	tr.begin()
	tr.expectLaunch()
	if tr.cfg.NodeIP != "192.168.1.5" {
		t.Fatalf("the node's address is %q, expected the machine's", tr.cfg.NodeIP)
	}
	look()
	for _, ip := range []string{"", "10.9.8.7", "192.168.1.5", "10.9.8.7", "10.1.1.1"} { // none of them lasts
		set(ip)
		look()
	}
	select {
	case err := <-tr.done:
		t.Fatalf("a flap ended the kubelet: %v", err)
	default:
	}
	look()
	if err := tr.expectEnd(); !errors.Is(err, ErrMoved) {
		t.Errorf("run = %v, expected ErrMoved", err)
	}
	if failed, _ := tr.marks.failed(); failed != 0 {
		t.Errorf("%d failed starts are marked", failed)
	}
}
