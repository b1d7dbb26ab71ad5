package horizon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// describe tells of limits in a line each.
func describe(j Judgement) string {
	var lines []string
	for _, l := range j.Limits {
		when := "any time"
		if l.Now {
			when = "now"
		} else if !l.Until.IsZero() {
			when = l.Until.Sub(j.At).String()
		}
		lines = append(lines, fmt.Sprintf("%s %s %s (%s)", when, l.Cause, l.Effect, l.Subject))
	}
	return strings.Join(lines, "\n")
}

func TestWhatEndsTheHorizonAndWhatIsListed(t *testing.T) {
	image := func(name string, asked, here, given bool) Image { return Image{Need{name, asked}, here, given} }
	growing := func(perDay int64) Rate { return Rate{float64(perDay) / day.Seconds(), 8 * day} }
	const gib = 1 << 30
	for name, c := range map[string]struct {
		s       Snapshot
		want    string
		horizon time.Duration // -1 for none, 0 for now
		enough  bool
	}{
		"nothing is known that ends it": {Snapshot{Pods: []Pod{{Name: "a/b", Images: []Image{image("i", false, true, false), image("j", true, true, true)}}}}, "", -1, true},
		"a certificate stops no pod, and the node returns while it can be exchanged": {
			Snapshot{Certificate: Certificate{NotAfter: noon.Add(time.Hour), Renewable: noon.Add(90 * day)}},
			"2160h0m0s CertificateEnds cannot-return (the node's certificate)", 90 * day, true},
		"a CloudCore that does not say how long may give no time": {
			Snapshot{Certificate: Certificate{NotAfter: noon.Add(60 * time.Hour)}},
			"60h0m0s CertificateEnds cannot-return (the node's certificate)", 60 * time.Hour, false},
		"a certificate that nobody exchanges any more": {
			Snapshot{Certificate: Certificate{NotAfter: noon.Add(-91 * day), Renewable: noon.Add(-day)}},
			"now CertificateEnds cannot-return (the node's certificate)", 0, false},
		"a missing image is now, whenever the pod starts": {
			Snapshot{Certificate: Certificate{NotAfter: noon.Add(day), Renewable: noon.Add(90 * day)},
				Pods: []Pod{{Name: "shop/till", Images: []Image{image("h/till:v1", true, false, false), image("h/side:v1", false, true, false)}}}},
			"now ImageMissing stops-pods (pod shop/till, image h/till:v1)\n2160h0m0s CertificateEnds cannot-return (the node's certificate)", 0, false},
		"an image that is asked for at each start serves those whom it was given": {
			Snapshot{Pods: []Pod{{Name: "a/b", Images: []Image{image("i", true, true, false)}}, {Name: "a/c", Images: []Image{image("i", true, true, true)}}}},
			"now ImageNotProven stops-pods (pod a/b, image i)", 0, false},
		"a fenced pod ends as it asks to": {
			Snapshot{Pods: []Pod{{Name: "a/b", Fences: true, Fence: 2 * time.Hour}, {Name: "a/c", Fences: true}, {Name: "a/d"}}},
			"now Fence as-asked (pod a/c)\n2h0m0s Fence as-asked (pod a/b)", -1, true},
		"a token that ends hurts only who checks it, one that is not there keeps its pod down": {
			Snapshot{Pods: []Pod{{Name: "a/b", NeedsToken: true, Token: noon.Add(time.Hour)}, {Name: "a/c", Token: noon.Add(time.Hour)}}},
			"1h0m0s TokenEnds refused-elsewhere (pod a/b)", -1, true},
		"no token": {Snapshot{Pods: []Pod{{Name: "a/b", NeedsToken: true}}}, "now TokenMissing stops-pods (pod a/b)", 0, false},
		"a disk that fills until pods are evicted": {
			Snapshot{Disks: []Disk{{Path: "/d", Free: 3 * gib, Total: 10 * gib, Floor: gib, Cause: DiskFills, Growth: growing(gib)}}},
			"48h0m0s DiskFills stops-pods (/d)", 2 * day, false},
		"one that fills so slowly that nobody can tell": {
			Snapshot{Disks: []Disk{{Path: "/d", Free: 10 * gib, Total: 10 * gib, Floor: gib, Cause: DiskFills, Growth: growing(gib)}}}, "", -1, true},
		"inodes that run out": {
			Snapshot{Disks: []Disk{{Path: "/d", Inodes: true, Free: 100 + 48, Total: 1000, Floor: 100, Cause: DiskFills, Growth: growing(24)}}},
			"48h0m0s DiskFills stops-pods (/d (inodes))", 2 * day, false},
		"one that is full": {Snapshot{Disks: []Disk{{Path: "/d", Free: gib, Total: 10 * gib, Floor: gib, Cause: DiskFills}}}, "now DiskFills stops-pods (/d)", 0, false},
		"the store's floor costs events": {
			Snapshot{Disks: []Disk{{Path: "/s", Free: 2 * gib, Total: 10 * gib, Floor: gib, Cause: StoreFills, Growth: growing(gib)}}},
			"24h0m0s StoreFills loses-reports (/s)", -1, true},
		"logs may fill a disk, nobody can tell when": {
			Snapshot{Disks: []Disk{{Path: "/d", Free: 2 * gib, Total: 10 * gib, Floor: gib, Cause: DiskFills, Logs: gib + 1}}},
			"any time LogsCanFill stops-pods (/d)", -1, true},
		"logs that fit": {Snapshot{Disks: []Disk{{Path: "/d", Free: 2 * gib, Total: 10 * gib, Floor: gib, Cause: DiskFills, Logs: gib}}}, "", -1, true},
		"the outbox": {
			Snapshot{Outbox: []Queue{{Class: "event", Used: gib, Quota: 2 * gib, Growth: growing(gib)}, {Class: "telemetry", Used: gib, Quota: gib}, {Class: "other", Used: 1, Quota: gib}}},
			"now OutboxFills loses-reports (the queue of class telemetry)\n24h0m0s OutboxFills loses-reports (the queue of class event)", -1, true},
	} {
		t.Run(name, func(t *testing.T) {
			c.s.At = noon
			j := Judge(c.s, 72*time.Hour)
			if got := describe(j); got != c.want {
				t.Errorf("limits\n%s\nexpected\n%s", got, c.want)
			}
			horizon := j.Until.Sub(noon)
			if j.Now {
				horizon = 0
			} else if j.Until.IsZero() {
				horizon = -1
			}
			if horizon != c.horizon || j.Enough != c.enough {
				t.Errorf("the horizon is %v, enough %v, expected %v, %v", horizon, j.Enough, c.horizon, c.enough)
			}
		})
	}
}

func TestEveryCauseIsExplainedOnce(t *testing.T) {
	seen := map[Cause]bool{}
	for _, a := range causes {
		if seen[a.cause] || a.what == "" || a.advice == "" || a.effect == "" {
			t.Errorf("%+v", a)
		}
		seen[a.cause] = true
	}
}

func drawSnapshot(t *rapid.T) Snapshot {
	s := Snapshot{At: noon}
	times := rapid.Custom(func(t *rapid.T) time.Time {
		return noon.Add(time.Duration(rapid.Int64Range(-100, 1000).Draw(t, "hours")) * time.Hour)
	})
	if rapid.Bool().Draw(t, "certificate") {
		s.Certificate = Certificate{NotAfter: times.Draw(t, "end")}
		if rapid.Bool().Draw(t, "renewable") {
			s.Certificate.Renewable = s.Certificate.NotAfter.Add(90 * day)
		}
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "pods") {
		p := Pod{Name: fmt.Sprintf("n/p%d", i), NeedsToken: rapid.Bool().Draw(t, "token")}
		if rapid.Bool().Draw(t, "stored") {
			p.Token = times.Draw(t, "token's end")
		}
		for k := range rapid.IntRange(0, 2).Draw(t, "images") {
			p.Images = append(p.Images, Image{Need{fmt.Sprintf("i%d", k), rapid.Bool().Draw(t, "asked")}, rapid.Bool().Draw(t, "here"), rapid.Bool().Draw(t, "given")})
		}
		s.Pods = append(s.Pods, p)
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "disks") {
		s.Disks = append(s.Disks, Disk{Path: fmt.Sprintf("/d%d", i), Free: rapid.Int64Range(0, 1<<40).Draw(t, "free"), Total: 1 << 40, Floor: rapid.Int64Range(0, 1<<38).Draw(t, "floor"),
			Cause: rapid.SampledFrom([]Cause{DiskFills, StoreFills}).Draw(t, "cause"), Logs: rapid.Int64Range(0, 1<<39).Draw(t, "logs"),
			Growth: Rate{rapid.Float64Range(0, 1<<22).Draw(t, "rate"), time.Duration(rapid.IntRange(0, 200).Draw(t, "reach")) * time.Hour}})
	}
	return s
}

// Whatever the node is like: the horizon is the earliest of what ends it, nothing is after what comes first, no order of pods or
// disks changes the answer, and what gets better shortens nothing.
func TestTheHorizonIsTheEarliestOfWhatEndsIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSnapshot(t)
		j := Judge(s, 72*time.Hour)
		ends, dated := false, time.Duration(0)
		for i := range j.Limits {
			l := &j.Limits[i]
			if l.Now && !l.Until.IsZero() || !l.Until.IsZero() && !l.Until.After(j.At) {
				t.Fatalf("%+v is reached and is not", l)
			}
			if !l.Effect.ends() || !l.dated() {
				continue
			}
			if d := l.left(j.At); !ends || d < dated {
				ends, dated = true, d
			}
		}
		got := j.Until.Sub(j.At)
		if j.Now {
			got = 0
		}
		if ends != (j.Now || !j.Until.IsZero()) || ends && got != dated {
			t.Fatalf("the horizon is %v (%v), the earliest is %v", got, j.Now, dated)
		}
		if j.Enough != (!ends || dated >= j.AtLeast) {
			t.Fatalf("enough %v with %v", j.Enough, dated)
		}
		turned := s
		turned.Pods, turned.Disks = slices.Clone(s.Pods), slices.Clone(s.Disks)
		slices.Reverse(turned.Pods)
		slices.Reverse(turned.Disks)
		if a, b := describe(j), describe(Judge(turned, 72*time.Hour)); a != b {
			t.Fatalf("in another order\n%s\nbecomes\n%s", a, b)
		}
		better := s
		better.Pods = nil
		for i := range better.Disks {
			better.Disks[i].Growth, better.Disks[i].Free = Rate{}, better.Disks[i].Total
		}
		if b := Judge(better, 72*time.Hour); b.Now && !j.Now || j.Until.IsZero() && !j.Now && !b.Until.IsZero() {
			t.Fatalf("what gets better ends sooner: %v, %v", j, b)
		}
	})
}
