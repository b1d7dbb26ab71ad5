package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// accounted returns nil when each write that the edge's agent found on its disk at its start, or took since, was answered by the cloud for good,
// replaced by a newer one of its object, or counted as lost. It is asked when none waits.
func accounted(ctx context.Context, w *world) error {
	body, err := w.edge.Get(ctx, w.edge.Metrics()+"/metrics")
	if err != nil {
		return err
	}
	for _, class := range []string{"state", "event", "telemetry"} {
		n := map[string]int{}
		for what, series := range map[string]string{"found": "messages", "accepted": "messages", "answered": "messages", "replaced": "messages", "expired": "lost_messages", "evicted": "lost_messages"} {
			if n[what], err = count(body, "tether_store_"+series+"_total", class, what); err != nil {
				return err
			}
		}
		if in, out := n["found"]+n["accepted"], n["answered"]+n["replaced"]+n["expired"]+n["evicted"]; in != out {
			return fmt.Errorf("of %d writes of class %s %d are accounted for: %v", in, class, out, n)
		}
	}
	return nil
}

// count reads a counter with a class and one more label, 0 where it is not there.
func count(metrics, name, class, value string) (int, error) {
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, name+"{")
		labels, number, found := strings.Cut(rest, "} ")
		if !ok || !found || !strings.Contains(labels, `class="`+class+`"`) || !strings.Contains(labels, `="`+value+`"`) {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", name, err)
		}
		return int(f), nil
	}
	return 0, nil
}
