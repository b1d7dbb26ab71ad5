package run

import (
	"runtime/debug"
	"testing"
)

func TestMemoryIsSavedUnlessTheOperatorDecides(t *testing.T) {
	before := debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	t.Setenv("GOGC", "80")
	SaveMemory()
	if p := debug.SetGCPercent(100); p != 100 {
		t.Errorf("with GOGC set the percentage is %d, expected it left alone", p)
	}
	t.Setenv("GOGC", "")
	SaveMemory()
	if p := debug.SetGCPercent(100); p != gcPercent {
		t.Errorf("the percentage is %d, expected %d", p, gcPercent)
	}
}
