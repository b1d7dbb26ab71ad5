package run

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// unused is the heap that the process holds and does not need, in bytes.
func unused() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestMemoryThatIsNoLongerNeededIsGivenBack(t *testing.T) {
	const size = 64 << 20
	var blocks [][]byte
	for range size / (64 << 10) {
		blocks = append(blocks, make([]byte, 64<<10))
	}
	runtime.KeepAlive(blocks)
	blocks = nil
	runtime.GC() // the runtime's own does as much, and gives little back
	if n := unused(); n < size/2 {
		t.Fatalf("%d bytes are unused before anything was given back: the test proves nothing", n)
	}
	if !tidy() {
		t.Fatal("64 MiB of garbage are let stand")
	}
	if n := unused(); n > size/2 {
		t.Errorf("%d bytes are held that nobody needs", n)
	}
	if tidy() {
		t.Error("collected again though nothing was to be had")
	}
}
