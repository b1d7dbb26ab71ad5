package run

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// unused is the heap that the process holds and does not need, in bytes.
func unused() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestMemoryThatIsNoLongerNeededIsGivenBack(t *testing.T) {
	const size = 64 << 20
	// The runtime gives back a little by itself, in the background: on a busy machine it may have done so before anybody looks.
	for try := 0; ; try++ {
		var blocks [][]byte
		for range size / (64 << 10) {
			blocks = append(blocks, make([]byte, 64<<10))
		}
		runtime.KeepAlive(blocks)
		blocks = nil
		runtime.GC()
		n := unused()
		if n >= size/2 {
			break
		}
		if try == 100 {
			t.Fatalf("%d bytes are unused before anything was given back: the test proves nothing", n)
		}
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

// percent is how much garbage stands, relative to what is live, before it is collected.
func percent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestMemoryIsSavedUnlessTheProcessIsBusy(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Fatal("GOGC is set: this test wants Go's default")
	}
	const before = 77
	was := debug.SetGCPercent(before)
	t.Cleanup(func() { debug.SetGCPercent(was) })
	var m Memory
	early := m.Busy() // before it runs
	if got := percent(); got != before {
		t.Errorf("GOGC is %d before anything runs, expected it untouched, %d", got, before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	want := func(what string, percents uint64) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); percent() != percents; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d, expected %d", what, percent(), percents)
			}
		}
	}
	want("busy from the beginning", defaultPercent)
	second := m.Busy()
	early()
	early()
	want("one of two is done, and says so twice", defaultPercent)
	second()
	want("nothing is to be done", gcPercent)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
