package horizon

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const atLeast = 72 * time.Hour

// ending is a judgement with a certificate that can be exchanged for that long.
func ending(left time.Duration, pods ...Pod) Judgement {
	return Judge(Snapshot{At: noon, Certificate: Certificate{NotAfter: noon, Renewable: noon.Add(left)}, Pods: pods}, atLeast)
}

func missing(name string) Pod {
	return Pod{Name: name, Images: []Image{{Need: Need{Image: "h/" + name}}}}
}

func TestWhatTheNodeShows(t *testing.T) {
	j := ending(90 * day)
	s := show(&j, Shown{}, restless)
	if want := (Shown{corev1.ConditionTrue, ReasonEnough, "the node can go on alone for at least 72h", "2030-08-30T00:00:00Z"}); s != want {
		t.Errorf("shows %+v, expected %+v", s, want)
	}
	j = ending(90*day, missing("a/c"), missing("a/b"), missing("a/e"), missing("a/d"))
	s = show(&j, s, 0)
	if want := "ImageMissing: pod a/b, image h/a/b; pod a/c, image h/a/c; pod a/d, image h/a/d (and 1 more) is not here: "; s.Status != corev1.ConditionFalse || s.Reason != "ImageMissing" ||
		!strings.HasPrefix(s.Message, want) || strings.Contains(s.Message, "CertificateEnds") || s.Until != "2030-06-01T12:00:00Z" {
		t.Errorf("shows %+v, expected %q", s, want)
	}
	if j.At = j.At.Add(time.Hour); show(&j, s, restless) != s {
		t.Errorf("what has ended is said to have ended later: %+v", show(&j, s, restless))
	}
	j = ending(30*time.Hour, missing(strings.Repeat("x", 5000)))
	if s = show(&j, s, 0); !strings.Contains(s.Message, ". CertificateEnds: the node's certificate ") || len(s.Message) > maxMessage {
		t.Errorf("shows a message of %d bytes: %s", len(s.Message), s.Message)
	}
	if j = ending(30*time.Hour + time.Minute); show(&j, Shown{}, 0).Until != "2030-06-02T18:00:00Z" {
		t.Errorf("what is near is said to the hour: %+v", show(&j, Shown{}, 0))
	}
	// What was to end later has ended: that is said at once, however short ago something else was.
	j = ending(30*time.Hour, missing("a/b"))
	before := Shown{Status: corev1.ConditionFalse, Reason: "ImageMissing", Until: noon.Add(60 * time.Hour).UTC().Format(time.RFC3339)}
	if s = show(&j, before, 0); s.Until != "2030-06-01T12:00:00Z" {
		t.Errorf("shows %s while something has ended already", s.Until)
	}
	if j = Judge(Snapshot{At: noon}, atLeast); show(&j, Shown{}, 0).Until != Unbounded {
		t.Errorf("nothing ends: %+v", show(&j, Shown{}, 0))
	}
}

// What moves a little, or to and fro at the threshold, writes no Node.
func TestANodeThatIsAtRestShowsWhatItShowed(t *testing.T) {
	j := ending(90 * day)
	shown := show(&j, Shown{}, restless)
	for _, left := range []time.Duration{89 * day, 97 * day, 75 * day} {
		if j = ending(left); show(&j, shown, 100*restless) != shown {
			t.Errorf("with %v left it shows %+v", left, show(&j, shown, 100*restless))
		}
	}
	j = ending(20 * day)
	if s := show(&j, shown, restless-time.Second); s != shown {
		t.Errorf("soon after the last change: %+v", s)
	}
	if s := show(&j, shown, restless); s.Until != "2030-06-21T00:00:00Z" || s.Status != shown.Status {
		t.Errorf("what is wrong by far stays: %+v", s)
	}
	j = ending(atLeast - time.Minute)
	short := show(&j, shown, 0)
	j = ending(atLeast + time.Minute)
	if s := show(&j, short, 0); short.Status != corev1.ConditionFalse || s != short {
		t.Errorf("at the threshold it comes and goes: %+v, then %+v", short, s)
	}
	j = ending(atLeast + atLeast/8)
	if s := show(&j, short, 0); s.Status != corev1.ConditionTrue {
		t.Errorf("well above the threshold: %+v", s)
	}
}

func TestEventsTellWhatCameAndWhatWent(t *testing.T) {
	tokens := Pod{Name: "a/t", NeedsToken: true, Token: noon.Add(time.Minute)}
	logs := Disk{Path: "/d", Free: 10, Floor: 5, Cause: DiskFills, Logs: 6}
	j := Judge(Snapshot{At: noon, Pods: []Pod{missing("a/b"), missing("a/c"), tokens}, Disks: []Disk{logs}}, atLeast)
	events, told := announcements(&j, nil)
	if len(events) != 2 || !events[0].Warning || events[0].Reason != "ImageMissing" || !strings.Contains(events[0].Message, "pod a/b, image h/a/b; pod a/c, image h/a/c is not here") || events[1].Reason != "LogsCanFill" {
		t.Errorf("makes %+v", events)
	}
	j = Judge(Snapshot{At: noon, Pods: []Pod{missing("a/x")}, Disks: []Disk{logs}}, atLeast)
	if again, _ := announcements(&j, told); len(again) != 0 {
		t.Errorf("says again %+v", again)
	}
	j = Judge(Snapshot{At: noon, Disks: []Disk{logs}}, atLeast)
	events, told = announcements(&j, told)
	if len(events) != 1 || events[0].Warning || events[0].Reason != ReasonMended || !strings.HasPrefix(events[0].Message, "ImageMissing ") || len(told) != 1 {
		t.Errorf("makes %+v, told %v", events, told)
	}
	j = ending(atLeast + time.Minute)
	if events, _ = announcements(&j, nil); len(events) != 0 {
		t.Errorf("what is far is said: %+v", events)
	}
	if events, _ = announcements(&j, []Cause{CertificateEnds}); len(events) != 0 {
		t.Errorf("what is near the threshold has gone: %+v", events)
	}
	j = Judge(Snapshot{At: noon, Pods: []Pod{missing(strings.Repeat("ü", 3000))}}, atLeast)
	if events, _ = announcements(&j, nil); len(events[0].Message) > maxEvent || !strings.Contains(events[0].Message, "import it") {
		t.Errorf("an Event of %d bytes: %s", len(events[0].Message), events[0].Message)
	}
}
