package twin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func wants(name, value string) Declared {
	d := Declared{Name: name, Type: v1beta1.Int}
	if value != "" {
		d.Desired = &v1beta1.TwinProperty{Value: value}
	}
	return d
}

func desire(value string) Update {
	return Update{Desired: &v1beta1.TwinProperty{Value: value}}
}

func report(value string) Update {
	return Update{Reported: &v1beta1.TwinProperty{Value: value}}
}

// life is a twin to which things happen one after the other.
type life struct {
	t    *testing.T
	twin *Twin
}

func (l *life) declare(all ...Declared) Changes {
	l.t.Helper()
	return l.twin.Declare(all, l.twin.Last().Next(time.Now()))
}

func (l *life) apply(updates map[string]Update) Changes {
	l.t.Helper()
	c, err := l.twin.Apply(updates, l.twin.Last().Next(time.Now()))
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *life) desired(name string) string { return l.twin.Property(name).Desired().text() }

func TestADesireOfTheEdgeHoldsUntilTheCloudsChanges(t *testing.T) {
	l := &life{t, New(nil)}
	if c := l.declare(wants("p", "1")); !c.Desired || l.desired("p") != "1" {
		t.Fatalf("%+v, desired %q", c, l.desired("p"))
	}
	if c := l.declare(wants("p", "1")); len(c.Before) > 0 {
		t.Errorf("a Device that is sent again changed %v", c.Before)
	}
	if c := l.apply(map[string]Update{"p": desire("2")}); !c.Desired || l.desired("p") != "2" {
		t.Errorf("%+v, desired %q, expected the edge's 2", c, l.desired("p"))
	}
	if c := l.declare(wants("p", "1")); len(c.Conflicts) > 0 || l.desired("p") != "2" {
		t.Errorf("%+v, desired %q: the Device was sent again and changed nothing", c, l.desired("p"))
	}
	c := l.declare(wants("p", "3"))
	if want := []Conflict{{Property: "p", Lost: "2", Won: "3"}}; !c.Desired || !slices.Equal(c.Conflicts, want) || l.desired("p") != "3" {
		t.Errorf("%+v, desired %q, expected the conflict %v", c, l.desired("p"), want)
	}
	l.apply(map[string]Update{"p": desire("4")})
	if c := l.declare(wants("p", "4")); len(c.Conflicts) > 0 || c.Desired || l.desired("p") != "4" {
		t.Errorf("%+v: both want the same", c)
	}
	if c := l.declare(wants("p", "")); !c.Desired || l.desired("p") != "" {
		t.Errorf("%+v, desired %q: the Device desires nothing any more", c, l.desired("p"))
	}
	if v := l.twin.Property("p").DesiredVersions; v.Cloud != 4 || v.Edge != 2 {
		t.Errorf("versions %+v, expected 4 changes of the cloud and 2 of the edge", v)
	}
}

func TestADesireThatIsWrongByNowGivesWayToTheClouds(t *testing.T) {
	l := &life{t, New(nil)}
	most := func(name, value, most string) Declared {
		d := wants(name, value)
		d.Check = func(v string) error {
			if len(v) > len(most) || v > most {
				return errors.New("expected at most " + most)
			}
			return nil
		}
		return d
	}
	l.declare(most("p", "9", "99"), most("q", "", "99"), most("r", "77", "99"))
	l.apply(map[string]Update{"p": desire("90"), "q": desire("30"), "r": {Desired: &v1beta1.TwinProperty{Value: "77"}, Call: "c"}})
	if c := l.declare(most("p", "9", "99"), most("q", "", "99"), most("r", "77", "99")); len(c.Before) > 0 || l.desired("p") != "90" {
		t.Errorf("%+v, desired %q: it is right still", c, l.desired("p"))
	}
	c := l.declare(most("p", "9", "5"), most("q", "", "50"), most("r", "77", "50"))
	if want := []Conflict{{Property: "p", Lost: "90", Won: "9", Why: "expected at most 5"}}; !c.Desired || c.Trivial || !slices.Equal(c.Conflicts, want) {
		t.Errorf("%+v, expected the conflicts %v", c, want)
	}
	if l.desired("p") != "9" || l.desired("q") != "30" || l.desired("r") != "77" {
		t.Errorf("desired %q, %q, %q: the Device's own is judged elsewhere", l.desired("p"), l.desired("q"), l.desired("r"))
	}
	l.twin.Revert(c)
	if l.desired("p") != "90" {
		t.Errorf("reverted it is %q", l.desired("p"))
	}
}

// A device may have been turned since the same was desired, so a call desires it anew; and who desired only what the cloud desired
// loses nothing when the cloud thinks better of it.
func TestACallDesiresAnew(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("p", "1"))
	call := func(name, value string) Changes {
		t.Helper()
		u := desire(value)
		u.Call = name
		return l.apply(map[string]Update{"p": u})
	}
	for i, value := range []string{"1", "2", "2"} {
		name := fmt.Sprint("call-", i)
		if c := call(name, value); !c.Desired || c.Trivial || l.desired("p") != value || l.twin.Property("p").Desired().Call != name {
			t.Errorf("call %s of %s: %+v, desired %+v", name, value, c, l.twin.Property("p").Desired())
		}
	}
	if c := l.apply(map[string]Update{"p": desire("2")}); c.Desired {
		t.Errorf("%+v: a client that is no call desires the same again", c)
	}
	call("last", "1")
	if c := l.declare(wants("p", "1")); len(c.Before) > 0 || l.twin.Property("p").Desired().Call != "last" {
		t.Errorf("%+v, desired %+v: the Device was sent again and changed nothing", c, l.twin.Property("p").Desired())
	}
	if c := l.declare(wants("p", "3")); len(c.Conflicts) > 0 || !c.Desired || l.desired("p") != "3" || l.twin.Property("p").Desired().Call != "" {
		t.Errorf("%+v, desired %+v", c, l.twin.Property("p").Desired())
	}
	if v := l.twin.Property("p").DesiredVersions; v.Cloud != 2 || v.Edge != 4 {
		t.Errorf("versions %+v, expected 2 changes of the cloud and 4 of the edge", v)
	}
}

func TestWhatDiffersIsPending(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("number", "45"), wants("free", ""), wants("other", "1"))
	if got := l.twin.Pending(nil); !slices.Equal(got, []string{"number", "other"}) {
		t.Errorf("pending %v", got)
	}
	if c := l.apply(map[string]Update{"number": report("+45"), "free": report("7"), "other": report("2")}); !c.Reported || c.Desired || c.Trivial {
		t.Errorf("%+v", c)
	}
	if got := l.twin.Pending(nil); !slices.Equal(got, []string{"other"}) {
		t.Errorf("pending %v, expected other: +45 is 45", got)
	}
	if c := l.apply(map[string]Update{"free": report("7")}); c.Reported || !c.Trivial || len(c.Before) != 1 {
		t.Errorf("%+v: the same value again is a change of its time only", c)
	}
	want := []v1beta1.Twin{{PropertyName: "free", Reported: &v1beta1.TwinProperty{Value: "7"}},
		{PropertyName: "number", Reported: &v1beta1.TwinProperty{Value: "+45"}},
		{PropertyName: "other", Reported: &v1beta1.TwinProperty{Value: "2"}}}
	if got := l.twin.Status(nil); !reflect.DeepEqual(got, want) {
		t.Errorf("status %+v, expected %+v: nobody has seen what is desired", got, want)
	}
	want[1].ObservedDesired, want[2].ObservedDesired = &v1beta1.TwinProperty{Value: "45"}, &v1beta1.TwinProperty{Value: "1"}
	if got := l.twin.Now(); !reflect.DeepEqual(got, want) {
		t.Errorf("now %+v, expected %+v", got, want)
	}
}

func TestADesiredValueIsObservedOnceItWasSeen(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("p", "1"))
	seen := func(want string) {
		t.Helper()
		if got := l.twin.Property("p").Observed.text(); got != want {
			t.Errorf("observed %q, expected %q", got, want)
		}
	}
	saw := func(v string) Update { return Update{Observed: &v} }
	seen("")
	if c := l.apply(map[string]Update{"p": saw("1")}); c.Trivial || c.Desired || c.Reported {
		t.Errorf("%+v", c)
	}
	seen("1")
	if c := l.apply(map[string]Update{"p": saw("1")}); len(c.Before) > 0 || !c.Trivial {
		t.Errorf("%+v: it was seen before", c)
	}
	l.declare(wants("p", "2"))
	seen("1")
	l.apply(map[string]Update{"p": saw("1")}) // was on its way
	seen("1")
	l.apply(map[string]Update{"p": {Reported: &v1beta1.TwinProperty{Value: "2"}, Told: true}})
	seen("2")
	l.apply(map[string]Update{"p": {Desired: &v1beta1.TwinProperty{Value: "3"}, Told: true}})
	seen("3")
	l.apply(map[string]Update{"p": {Desired: &v1beta1.TwinProperty{Value: "3"}, Call: "c"}})
	if p := l.twin.Property("p"); p.Observed.Call != "" {
		t.Errorf("a call that nobody was told of is observed: %+v", p.Observed)
	}
	l.declare(wants("p", ""))
	l.apply(map[string]Update{"p": {Desired: &v1beta1.TwinProperty{Value: ""}}})
	seen("3")
	l.apply(map[string]Update{"p": saw(""), "unknown": saw("")})
	seen("")
	if l.twin.Property("unknown") != nil {
		t.Error("what was seen of a property makes one")
	}
}

func TestPropertiesGoWithTheDeviceThatNamesThem(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("own", "1"), wants("kept", ""))
	l.apply(map[string]Update{"own": report("1"), "client": {Reported: &v1beta1.TwinProperty{Value: "x"}, Type: v1beta1.String}})
	if c := l.declare(wants("kept", "")); !c.Reported || !c.Desired || c.Before["own"] == nil {
		t.Errorf("%+v", c)
	}
	if got := l.twin.Names(); !slices.Equal(got, []string{"client", "kept"}) {
		t.Errorf("left are %v", got)
	}
	l.apply(map[string]Update{"kept": report("5"), "client": {Remove: true}})
	l.apply(map[string]Update{"kept": {Remove: true}, "nobody": {Remove: true}})
	if got := l.twin.Names(); !slices.Equal(got, []string{"kept"}) || l.twin.Property("kept").Reported != nil {
		t.Errorf("left are %v; a property of the Device loses what was reported", got)
	}
}

func TestBeyondTheLimitsNothingIsTaken(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("p", "1"))
	many := map[string]Update{}
	for i := range v1beta1.MaxProperties {
		many[fmt.Sprint(i)] = report("1")
	}
	for name, c := range map[string]struct {
		updates map[string]Update
		want    error
	}{
		"properties": {many, ErrTooMany},
		"reported":   {map[string]Update{"p": report(strings.Repeat("x", v1beta1.MaxReportedBytes+1)), "q": report("1")}, ErrTooLong},
		"desired":    {map[string]Update{"p": desire(strings.Repeat("x", v1beta1.MaxDesiredBytes+1)), "q": report("1")}, ErrTooLong},
	} {
		last := l.twin.Last()
		if _, err := l.twin.Apply(c.updates, last.Next(time.Now())); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, expected %v", name, err, c.want)
		}
		if got := l.twin.Names(); !slices.Equal(got, []string{"p"}) || l.desired("p") != "1" || l.twin.Last() != last {
			t.Errorf("%s: a refused step left %v", name, got)
		}
	}
	full := map[string]Update{"p": report(strings.Repeat("x", v1beta1.MaxReportedBytes))}
	if _, err := l.twin.Apply(full, l.twin.Last().Next(time.Now())); err != nil {
		t.Errorf("the most that is allowed: %v", err)
	}
}

// TestClientsMakeRoomForTheDevice: who fills a twin at the edge must not keep the cloud's word out.
func TestClientsMakeRoomForTheDevice(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("p", "1"))
	junk := map[string]Update{}
	for i := range v1beta1.MaxProperties - 1 {
		junk[fmt.Sprintf("x%04d", i)] = report("junk")
	}
	l.apply(junk)
	const room = "the Device needs the room"
	c := l.declare(wants("p", "2"), wants("q", "3"), wants("r", "4"))
	if l.desired("p") != "2" || l.desired("q") != "3" || l.desired("r") != "4" || len(l.twin.Names()) != v1beta1.MaxProperties {
		t.Errorf("desired %q, %q, %q, of %d properties", l.desired("p"), l.desired("q"), l.desired("r"), len(l.twin.Names()))
	}
	if want := []Conflict{{Property: "x0998", Lost: "junk", Why: room}, {Property: "x0997", Lost: "junk", Why: room}}; !slices.Equal(c.Conflicts, want) {
		t.Errorf("conflicts %v, expected %v", c.Conflicts, want)
	}
	l = &life{t, New(nil)}
	l.declare(wants("p", "1"), wants("q", ""))
	l.apply(map[string]Update{"p": desire(strings.Repeat("5", v1beta1.MaxDesiredBytes-1))})
	c = l.declare(wants("p", "1"), wants("q", "12"))
	if l.desired("p") != "1" || l.desired("q") != "12" || len(c.Conflicts) != 1 || !c.Desired {
		t.Errorf("desired %.10q and %q with %d conflicts", l.desired("p"), l.desired("q"), len(c.Conflicts))
	}
}

// TestClientsMakeRoomForWhatTheDeviceReports: a client that fills a twin with properties of its own does not silence the mapper.
func TestClientsMakeRoomForWhatTheDeviceReports(t *testing.T) {
	l := &life{t, New(nil)}
	l.declare(wants("p", "1"), wants("q", "1"))
	half := strings.Repeat("x", v1beta1.MaxReportedBytes/2)
	l.apply(map[string]Update{"a": report(half), "z": report(half)})
	c := l.apply(map[string]Update{"p": report("5")})
	if got := l.twin.Property("p").Reported.text(); got != "5" || l.twin.Property("z") != nil || l.twin.Property("a") == nil {
		t.Errorf("%q is reported, and the properties are %v: want 5, and the last of the client's gone", got, l.twin.Names())
	}
	if want := []Conflict{{Property: "z", Lost: half, Why: "the Device needs the room"}}; !slices.Equal(c.Conflicts, want) {
		t.Errorf("%d conflicts, want one that tells of z", len(c.Conflicts))
	}
	// A client's own have no such right, neither has what would not fit anyway.
	l.apply(map[string]Update{"z": report(half[:len(half)-1])})
	for _, u := range []map[string]Update{{"b": report("5")}, {"p": report(half + half + "x")}} {
		if _, err := l.twin.Apply(u, l.twin.Last().Next(time.Now())); !errors.Is(err, ErrTooLong) {
			t.Errorf("%v, expected %v", err, ErrTooLong)
		}
		if len(l.twin.Names()) != 4 || l.twin.Property("p").Reported.text() != "5" {
			t.Errorf("a refused report left %v", l.twin.Names())
		}
	}
}

// What was observed counts as desired, and is the first to go: nobody who reports is refused for it.
func TestWhatWasObservedMakesRoomForWhatIsDesired(t *testing.T) {
	long := strings.Repeat("5", v1beta1.MaxDesiredBytes*2/3)
	observed := func(l *life, name string) string { return l.twin.Property(name).Observed.text() }
	l := &life{t, New(nil)}
	l.declare(wants("p", long), wants("q", "1"), wants("r", "1"))
	l.apply(map[string]Update{"p": {Observed: new(long)}, "r": {Observed: new("1")}})
	l.declare(wants("p", "2"), wants("q", "1"), wants("r", "2"))
	if observed(l, "p") != long || observed(l, "r") != "1" {
		t.Errorf("while there is room %.10q and %q were observed", observed(l, "p"), observed(l, "r"))
	}
	c := l.declare(wants("p", "2"), wants("q", long), wants("r", "2"))
	if observed(l, "p") != "" || observed(l, "r") != "1" || l.desired("q") != long || c.Trivial {
		t.Errorf("then %.10q and %q, and %.10q is desired", observed(l, "p"), observed(l, "r"), l.desired("q"))
	}
	l.apply(map[string]Update{"q": {Observed: new(long)}})
	l.declare(wants("p", "2"), wants("q", "1"), wants("r", "2"))
	l.apply(map[string]Update{"p": desire(long)})
	if observed(l, "q") != "" || l.desired("p") != long {
		t.Errorf("for a client's desire: %.10q was observed, %.10q is desired", observed(l, "q"), l.desired("p"))
	}
}

func TestStampsOnlyGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := Stamp{Wall: rapid.Int64Range(0, 1<<40).Draw(t, "wall"), Logical: rapid.SampledFrom([]uint32{0, 5, ^uint32(0)}).Draw(t, "logical")}
		for range 20 {
			now := time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(t, "now"))
			next := last.Next(now)
			if next.Compare(last) <= 0 || next.Wall < now.UnixMilli() {
				t.Fatalf("after %+v at %d comes %+v", last, now.UnixMilli(), next)
			}
			last = next
		}
	})
}

// TestATwinIsWhatItsRuleSays holds it against a model that knows the rule and nothing else, over random lives with
// restarts.
func TestATwinIsWhatItsRuleSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		twin := New(nil)
		cloud, edge, reported := map[string]string{}, map[string]string{}, map[string]string{}
		value := rapid.SampledFrom([]string{"1", "2", "3"})
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			at := twin.Last().Next(time.UnixMilli(rapid.Int64Range(0, 1<<40).Draw(t, "now")))
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				said := rapid.MapOf(name, rapid.SampledFrom([]string{"", "1", "2", "3"})).Draw(t, "declared")
				var all []Declared
				var lost []Conflict
				for _, n := range slices.Sorted(maps.Keys(said)) {
					all = append(all, wants(n, said[n]))
					if e, ok := edge[n]; ok && said[n] != cloud[n] && e != said[n] && e != cloud[n] {
						lost = append(lost, Conflict{Property: n, Lost: e, Won: said[n]})
					}
				}
				for _, n := range slices.Sorted(maps.Keys(cloud)) {
					if e, ok := edge[n]; ok && e != cloud[n] && !slices.ContainsFunc(all, func(d Declared) bool { return d.Name == n }) {
						lost = append(lost, Conflict{Property: n, Lost: e, Why: "the Device has no such property any more"})
					}
				}
				if c := twin.Declare(all, at); !slices.Equal(c.Conflicts, lost) {
					t.Fatalf("declare %v: conflicts %v, expected %v", said, c.Conflicts, lost)
				}
				for n := range cloud {
					if _, ok := said[n]; !ok {
						delete(cloud, n)
						delete(edge, n)
						delete(reported, n)
					}
				}
				for n, v := range said {
					if was, ok := cloud[n]; v != was && ok || v != "" && !ok {
						delete(edge, n)
					}
					cloud[n] = v
				}
			case 1:
				n, v := name.Draw(t, "name"), value.Draw(t, "desire")
				u := desire(v)
				u.Call = rapid.SampledFrom([]string{"", "call"}).Draw(t, "call")
				if _, err := twin.Apply(map[string]Update{n: u}, at); err != nil {
					t.Fatal(err)
				}
				if delete(edge, n); v != cloud[n] || u.Call != "" {
					edge[n] = v
				}
			case 2:
				n, v := name.Draw(t, "name"), value.Draw(t, "report")
				if _, err := twin.Apply(map[string]Update{n: report(v)}, at); err != nil {
					t.Fatal(err)
				}
				reported[n] = v
			case 3:
				stored := map[string]*Property{}
				for _, n := range twin.Names() {
					b, err := json.Marshal(twin.Property(n))
					if err != nil {
						t.Fatal(err)
					}
					stored[n] = &Property{}
					if err := json.Unmarshal(b, stored[n]); err != nil {
						t.Fatal(err)
					}
				}
				before := twin
				if twin = New(stored); twin.Last() != before.Last() && twin.Last().Compare(before.Last()) > 0 {
					t.Fatalf("after a restart the last stamp is %+v, it was %+v", twin.Last(), before.Last())
				}
			}
			var pending []string
			for _, n := range []string{"a", "b", "c"} {
				want, ok := edge[n]
				if !ok {
					want = cloud[n]
				}
				var p Property
				if got := twin.Property(n); got != nil {
					p = *got
				}
				if p.Desired().text() != want || p.Reported.text() != reported[n] {
					t.Fatalf("%s: desired %q and reported %q, expected %q and %q", n, p.Desired().text(), p.Reported.text(), want, reported[n])
				}
				if want != "" && want != reported[n] {
					pending = append(pending, n)
				}
			}
			if got := twin.Pending(nil); !slices.Equal(got, pending) {
				t.Fatalf("pending %v, expected %v", got, pending)
			}
		}
	})
}
