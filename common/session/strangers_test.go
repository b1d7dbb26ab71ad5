package session

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestAnUnknownFeatureIsToldOnce(t *testing.T) {
	var s Strangers
	if got := s.Untold([]string{"a", "b", "a"}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("told %q, expected a and b, once each", got)
	}
	if got := s.Untold([]string{"b", "c"}); !slices.Equal(got, []string{"c"}) {
		t.Errorf("then told %q, expected c", got)
	}
	told := 0
	for i := range 10_000 {
		for _, f := range s.Untold([]string{fmt.Sprintf("%d-%s", i, strings.Repeat("x", 1<<10))}) {
			told += len(f)
		}
	}
	if limit := maxStrangers * maxStrangerName; told == 0 || told > limit {
		t.Errorf("a peer that invents features filled the log with %d bytes, limit %d", told, limit)
	}
}
