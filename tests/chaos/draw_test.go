package chaos

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
)

// TestEveryFaultComesTwiceInFiveSeeds: whichever five whole seeds are run one after the other from a multiple on.
func TestEveryFaultComesTwiceInFiveSeeds(t *testing.T) {
	for first := uint64(1); first <= 51; first += groupSize {
		times := map[string]int{}
		for seed := first; seed < first+groupSize; seed++ {
			for _, slot := range Draw(seed, Faults(), 0) {
				for _, p := range slot {
					times[p.Fault]++
				}
			}
		}
		for _, f := range Faults() {
			if times[f.Name] < 2 {
				t.Errorf("%s comes %d times in seeds %d to %d", f.Name, times[f.Name], first, first+groupSize-1)
			}
		}
	}
}

// TestASeedDrawsTheSame faults again, another seed others, and what it draws keeps the rules of the table.
func TestASeedDrawsTheSame(t *testing.T) {
	table := map[string]Fault{}
	for _, f := range Faults() {
		if table[f.Name].Name != "" || f.What == "" || f.Promise == "" || f.Least <= 0 || f.Most < f.Least {
			t.Errorf("fault %q is there twice, or lacks words or bounds: %+v", f.Name, f)
		}
		table[f.Name] = f
	}
	seen := map[string]bool{}
	for seed := uint64(1); seed <= 40; seed++ {
		for _, slots := range []int{0, 6} {
			plan := Draw(seed, Faults(), slots)
			if !reflect.DeepEqual(plan, Draw(seed, Faults(), slots)) {
				t.Errorf("seed %d draws other faults the second time", seed)
			}
			if slots > 0 && len(plan) != slots {
				t.Errorf("seed %d draws %d slots, expected %d", seed, len(plan), slots)
			}
			seen[fmt.Sprint(plan)] = true
			for _, slot := range plan {
				for i, p := range slot {
					f := table[p.Fault]
					if p.Length < f.Least || p.Length > f.Most || p.After > slot[0].Length {
						t.Errorf("seed %d: %+v is out of bounds of %+v", seed, p, f)
					}
					if i > 0 && !combine(table[slot[0].Fault], f) {
						t.Errorf("seed %d combines %s and %s", seed, slot[0].Fault, p.Fault)
					}
				}
			}
		}
	}
	if len(seen) != 80 {
		t.Errorf("80 seeds drew %d plans", len(seen))
	}
}

// TestWhatIsDrawnFrom: all, or what was asked for; short runs build no older version unless they are asked to.
func TestWhatIsDrawnFrom(t *testing.T) {
	const slow = "cloud-previous"
	for _, c := range []struct {
		cfg  Config
		many int
		slow bool
	}{
		{Config{}, len(Faults()), true},
		{Config{Slots: 5}, len(Faults()) - 1, false},
		{Config{Slots: 5, Only: []string{slow, "far"}}, 2, true},
	} {
		table, err := c.cfg.faults()
		has := slices.ContainsFunc(table, func(f Fault) bool { return f.Name == slow })
		if err != nil || len(table) != c.many || has != c.slow {
			t.Errorf("%+v draws from %d faults, %s among them: %t, %v; expected %d, %t", c.cfg, len(table), slow, has, err, c.many, c.slow)
		}
	}
	if _, err := (Config{Only: []string{"far", "none"}}).faults(); err == nil {
		t.Error("a name that is no fault's was taken")
	}
}
