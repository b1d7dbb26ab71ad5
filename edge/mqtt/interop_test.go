package mqtt

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
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
