package mqtt

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// mosquitto runs one of Debian's mosquitto-clients against the broker and returns how it ended and what it said.
func mosquitto(t *testing.T, r *rig, program string, args ...string) (string, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.Address())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-h", host, "-p", port}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func pub(t *testing.T, r *rig, args ...string) {
	t.Helper()
	if out, err := mosquitto(t, r, "mosquitto_pub", args...); err != nil {
		t.Fatalf("mosquitto_pub %v: %v: %s", args, err, out)
	}
}

// Device software is mostly built on mosquitto's library: every version and quality of service works with it.
func TestMosquittoPublishesAndSubscribes(t *testing.T) {
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		mem := &ram{}
		r := start(t, mem, nil)
		v := []string{"-V", version}
		lasting := []string{"-c", "-i", "lasting"}
		if version == "mqttv5" {
			lasting = append(lasting, "-x", "3600")
		}
		sub := func(args ...string) string {
			out, err := mosquitto(t, r, "mosquitto_sub", append(append(v, "-W", "20"), args...)...)
			if err != nil {
				t.Fatalf("%s: mosquitto_sub %v: %v: %s", version, args, err, out)
			}
			return out
		}
		sub(append(lasting, "-t", "q/#", "-q", "2", "-E")...)
		for qos := range 3 {
			pub(t, r, append(v, "-t", "q/1", "-q", fmt.Sprint(qos), "-m", fmt.Sprint("away ", qos))...)
		}
		pub(t, r, append(v, "-t", "kept", "-q", "2", "-r", "-m", "retained")...)
		image := mem.image()
		r.stop()
		r = start(t, image, nil)
		// QoS 0 is not kept for a client that is away.
		if out := sub(append(lasting, "-t", "q/#", "-q", "2", "-C", "2")...); out != "away 1\naway 2" {
			t.Errorf("%s: expected what came while it was away and the broker restarted, found %q", version, out)
		}
		if out := sub("-t", "kept", "-C", "1", "-F", "%r %p"); out != "1 retained" {
			t.Errorf("%s: expected the retained message, found %q", version, out)
		}
		out := untilHeard(t, func() (string, error) {
			return mosquitto(t, r, "mosquitto_sub", append(v, "-W", "20", "-t", pump+"twin/get/result", "-C", "1", "-q", "1")...)
		}, func() { pub(t, r, append(v, "-t", pump+"twin/get", "-q", "1", "-m", `{"event_id":"m"}`)...) })
		if !strings.Contains(out, `"event_id":"m"`) || !strings.Contains(out, `"twin"`) {
			t.Errorf("%s: expected the twin, found %q", version, out)
		}
		r.stop()
	}
}

// A client of MQTT 5 that takes two messages at a time gets all of them, in order.
func TestReceiveMaximumIsKept(t *testing.T) {
	r := start(t, nil, nil)
	n := 0
	out := untilHeard(t, func() (string, error) {
		return mosquitto(t, r, "mosquitto_sub", "-V", "mqttv5", "-D", "connect", "receive-maximum", "2", "-W", "20", "-t", "a", "-q", "2", "-C", "40")
	}, func() {
		c := dial(t, options(r.Address(), "from"))
		defer c.Disconnect(100)
		for range 20 {
			c.publish(t, "a", 2, false, fmt.Sprintf("%06d", n))
			n++
		}
	})
	lines := strings.Split(out, "\n")
	if len(lines) != 40 || !slices.IsSorted(lines) || len(slices.Compact(slices.Clone(lines))) != 40 {
		t.Errorf("expected 40 messages in order, each once, found %d: %v", len(lines), lines)
	}
}

// untilHeard speaks again and again until what listens has heard enough, and returns that.
func untilHeard(t *testing.T, listen func() (string, error), speak func()) string {
	t.Helper()
	heard := make(chan string, 1)
	go func() {
		out, err := listen()
		if err != nil {
			out = fmt.Sprint(out, " ", err)
		}
		heard <- out
	}()
	var out string
	eventually(t, "it was heard", func() bool {
		speak()
		select {
		case out = <-heard:
			return true
		default:
			return false
		}
	})
	return out
}

// A message that is larger than what its client takes is passed over [MQTT-3.1.2-25]: it keeps no place of those that the client takes at a time,
// and no room in its queue.
func TestAMessageThatIsTooLargeForItsClientIsPassedOver(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	args := []string{"mosquitto_sub", "-V", "mqttv5", "-c", "-i", "small", "-x", "3600", "-D", "connect", "maximum-packet-size", "100", "-D", "connect", "receive-maximum", "2", "-W", "20", "-t", "a", "-q", "1"}
	if out, err := mosquitto(t, r, args[0], append(args[1:], "-E")...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := dial(t, options(r.Address(), "from"))
	defer c.Disconnect(100)
	want := make([]string, 0, 6)
	for i := range 6 {
		want = append(want, fmt.Sprint("small ", i))
		c.publish(t, "a", 1, false, want[i])
		c.publish(t, "a", 1, false, strings.Repeat("large", 100))
	}
	out, err := mosquitto(t, r, args[0], append(args[1:], "-C", "6")...)
	if got := strings.Split(out, "\n"); err != nil || !slices.Equal(got, want) {
		t.Errorf("expected %q, found %q, %v", want, got, err)
	}
	eventually(t, "its acknowledgements", func() bool { return r.waiting("small") == 0 })
	// Again while it is there.
	heard := untilHeard(t, func() (string, error) { return mosquitto(t, r, args[0], append(args[1:], "-C", "20")...) }, func() {
		c.publish(t, "a", 1, false, strings.Repeat("large", 100))
		c.publish(t, "a", 1, false, "there")
	})
	if got := strings.Split(heard, "\n"); len(got) != 20 || len(slices.Compact(got)) != 1 || got[0] != "there" {
		t.Errorf("expected 20 small ones, found %q", heard)
	}
	if n := testutil.ToFloat64(r.metrics.dropped.WithLabelValues("large")); n < 12 {
		t.Errorf("%v too large ones are counted, expected 12 at least", n)
	}
	eventually(t, "nothing to wait", func() bool {
		if out, err := mosquitto(t, r, args[0], append(args[1:], "-W", "1")...); err == nil || strings.Contains(out, "large") {
			t.Errorf("%v: %s", err, out)
		}
		return r.waiting("small") == 0 && mem.count(bucketInflight) == 0
	})
}

// What is good for a time is good for no longer when the broker was away meanwhile, and for what is left of it afterwards.
func TestAMessageThatExpiresDoesSoAcrossARestart(t *testing.T) {
	mem := &ram{}
	r := start(t, mem, nil)
	sub := func(args ...string) string {
		out, err := mosquitto(t, r, "mosquitto_sub", append([]string{"-V", "mqttv5", "-W", "20"}, args...)...)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return out
	}
	lasting := []string{"-c", "-i", "lasting", "-x", "3600", "-t", "#", "-q", "1"}
	sub(append(lasting, "-E")...)
	for _, life := range []string{"1", "3600"} {
		expiry := []string{"-V", "mqttv5", "-q", "1", "-D", "publish", "message-expiry-interval", life}
		pub(t, r, append(expiry, "-t", "queued", "-m", life)...)
		pub(t, r, append(expiry, "-r", "-t", "retained/"+life, "-m", life)...)
	}
	pub(t, r, "-V", "mqttv5", "-q", "1", "-t", "end", "-m", "for ever")
	image := mem.image()
	r.stop()
	over := time.Now().Unix() + 1
	eventually(t, "a second to be over", func() bool { return time.Now().Unix() > over })
	r = start(t, image, nil)
	got := strings.Split(sub(append(lasting, "-C", "3", "-F", "%t %p %E")...), "\n")
	if len(got) != 3 || got[2] != "end for ever" {
		t.Fatalf("expected what has not expired, found %q", got)
	}
	for i, want := range []string{"queued 3600", "retained/3600 3600"} {
		var left int
		if rest, ok := strings.CutPrefix(got[i], want+" "); !ok {
			t.Errorf("expected %s, found %s", want, got[i])
		} else if _, err := fmt.Sscan(rest, &left); err != nil || left > 3598 || left < 3000 {
			t.Errorf("%s is good for %s s, expected less than at first: %v", want, rest, err)
		}
	}
	if out := sub("-t", "retained/#", "-C", "1", "-F", "%t"); out != "retained/3600" {
		t.Errorf("expected what is retained and has not expired, found %q", out)
	}
	eventually(t, "what has expired to be deleted", func() bool { return r.mem.count(bucketRetained) == 1 && r.mem.count(bucketInflight) <= 3 })
	// The library, too, knows when the rest expires.
	if pk, ok := r.broker.Load().server.Topics.Retained.Get("retained/3600"); !ok || pk.ProtocolVersion != 5 || pk.Expiry < over+3000 {
		t.Errorf("the retained message is of MQTT %d and expires at %d", pk.ProtocolVersion, pk.Expiry)
	}
}
