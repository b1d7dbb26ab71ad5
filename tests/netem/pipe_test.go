package netem

import (
	"strings"
	"testing"
	"time"
)

var start = time.Unix(1000, 0)

// arrivals takes everything out of a pipe and returns when each frame was due, since start. The first byte of each
// frame is its number: they must come in order.
func arrivals(t *testing.T, p *pipe) (at []time.Duration) {
	t.Helper()
	now, last := start, -1
	for {
		data, wait := p.take(now)
		switch {
		case data != nil:
			if int(data[0]) <= last {
				t.Errorf("frame %d came after frame %d", data[0], last)
			}
			last = int(data[0])
			at = append(at, now.Sub(start))
			p.done(data, true)
		case wait == idle:
			return at
		default:
			now = now.Add(wait)
		}
	}
}

func numbered(n byte, size int) []byte {
	b := make([]byte, size)
	b[0] = n
	return b
}

func TestJitterKeepsTheOrderAndItsBounds(t *testing.T) {
	p := newPipe(Settings{Delay: 100 * time.Millisecond, Jitter: 50 * time.Millisecond}, 1, 0)
	for n := range byte(200) {
		p.put(start.Add(time.Duration(n)*time.Millisecond), numbered(n, 60))
	}
	distinct := map[time.Duration]bool{}
	for n, at := range arrivals(t, p) {
		transit := at - time.Duration(n)*time.Millisecond
		if transit < 100*time.Millisecond || transit > 150*time.Millisecond {
			t.Errorf("frame %d took %s, expected 100 to 150 ms", n, transit)
		}
		distinct[transit] = true
	}
	if len(distinct) < 20 {
		t.Errorf("expected 200 frames to take many different times, found %d", len(distinct))
	}
}

func TestRateSpacesFramesAndTheQueueIsBounded(t *testing.T) {
	p := newPipe(Settings{Delay: time.Second, Rate: 1000, Queue: 500}, 1, 0)
	for n := range byte(10) {
		p.put(start, numbered(n, 100))
	}
	at := arrivals(t, p)
	if len(at) != 5 {
		t.Fatalf("expected the 5 frames that the queue holds, found %d", len(at))
	}
	for n, d := range at {
		if want := time.Second + time.Duration(n+1)*100*time.Millisecond; d != want {
			t.Errorf("frame %d arrived after %s, expected %s", n, d, want)
		}
	}
	if c := p.counters(); c.Overflowed != 5 || c.Sent != 5 || c.SentBytes != 500 || c.Received != 10 || c.Held != 0 {
		t.Errorf("expected 10 frames received, 5 sent with 500 bytes and 5 overflowed, found %+v", c)
	}
}

func TestAFrameLongerThanTheQueuePassesAlone(t *testing.T) {
	p := newPipe(Settings{Rate: 1000, Queue: 10}, 1, 0)
	p.put(start, numbered(0, 100))
	p.put(start, numbered(1, 100))
	if at := arrivals(t, p); len(at) != 1 {
		t.Errorf("expected one frame to pass, found %d", len(at))
	}
}

func TestSetReachesWhatWaitsButNotWhatIsOnItsWay(t *testing.T) {
	p := newPipe(Settings{Delay: 10 * time.Second, Rate: 100}, 1, 0)
	for n := range byte(3) {
		p.put(start, numbered(n, 100)) // through after 1, 2 and 3 s
	}
	p.set(start.Add(1500*time.Millisecond), Settings{Rate: 1000, Delay: 20 * time.Second})
	at := arrivals(t, p)
	want := []time.Duration{11 * time.Second, 21600 * time.Millisecond, 21700 * time.Millisecond}
	for n := range want {
		if n >= len(at) || at[n] != want[n] {
			t.Fatalf("frames arrived after %v, expected %v", at, want)
		}
	}
}

func TestWhatIsHeldIsBounded(t *testing.T) {
	p := newPipe(Settings{Delay: time.Hour}, 1, 0)
	p.limit = 1000
	for range 13 {
		p.put(start, make([]byte, 100))
	}
	if c := p.counters(); c.Held != 10 || c.Overflowed != 3 {
		t.Errorf("expected 10 frames of 100 bytes held and 3 dropped, found %+v", c)
	}
}

func TestNoUDPLosesUDPAlone(t *testing.T) {
	packet := func(etherType, version, protocol byte) []byte {
		b := make([]byte, 60)
		b[12], b[14], b[23] = etherType, version<<4, protocol
		return b
	}
	p := newPipe(Settings{NoUDP: true}, 1, 1)
	for _, b := range [][]byte{packet(8, 4, 17), packet(8, 4, 6), packet(0x86, 6, 17), packet(8, 4, 17)[:20]} {
		p.put(time.Now(), b)
	}
	if c := p.counters(); c.Lost != 1 || c.Held != 3 {
		t.Errorf("expected the one packet of UDP lost and 3 others held, found %+v", c)
	}
}

func TestWrongSettingsAreAllNamed(t *testing.T) {
	err := Settings{Delay: -1, Jitter: 2 * time.Hour, Loss: 1.5, Rate: -1, Queue: -1}.Validate()
	if err == nil {
		t.Fatal("expected an error")
	}
	for _, field := range []string{"delay", "jitter", "loss", "rate", "queue"} {
		if !strings.Contains(err.Error(), field+": expected") {
			t.Errorf("expected %s in: %v", field, err)
		}
	}
	if err := (Settings{Loss: 1, Rate: 1, Queue: 1, Delay: 1, Jitter: 1}).Validate(); err != nil {
		t.Error(err)
	}
}
