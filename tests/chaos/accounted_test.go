package chaos

import "testing"

func TestACounterIsFoundByItsLabels(t *testing.T) {
	const page = `# HELP tether_store_messages_total text
tether_store_messages_total{class="event",what="accepted"} 12
tether_store_messages_total{class="state",what="accepted"} 1.5e+06
tether_store_messages_total{class="state",what="found"} 0
`
	for _, c := range []struct {
		class, what string
		want        int
	}{{"event", "accepted", 12}, {"state", "accepted", 1500000}, {"state", "found", 0}, {"telemetry", "accepted", 0}} {
		if got, err := count(page, "tether_store_messages_total", c.class, c.what); got != c.want || err != nil {
			t.Errorf("%s %s: %d, %v, expected %d", c.class, c.what, got, err, c.want)
		}
	}
	if _, err := count(`m{class="state",what="found"} many`, "m", "state", "found"); err == nil {
		t.Error("a word is taken for a number")
	}
}
