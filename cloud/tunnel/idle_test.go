package tunnel

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
)

// idleLimit is the most that the port of a node costs that nobody asks, in bytes of this process: twice what was measured, since
// the race detector has larger stacks.
const idleLimit = 8 << 10

// others is the most that a Server holds open besides: a test's kubelet, and what the runtime polls with.
const others = 16

// held is what the process holds: bytes of heap and stacks in use, goroutines, open files, and the kernel's slabs.
type held struct{ heap, stack, goroutines, files, slab int }

func hold(t testing.TB) (h held) {
	t.Helper()
	runtime.GC()
	runtime.GC() // what finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	h = held{heap: int(m.HeapAlloc), stack: int(m.StackInuse), goroutines: runtime.NumGoroutine(), files: len(files)}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Slab:"); ok {
			if _, err := fmt.Sscan(rest, &h.slab); err != nil {
				t.Fatal(err)
			}
			h.slab <<= 10
		}
	}
	return h
}

// TestAnIdleNodeCostsItsListener: a node whose kubelet nobody asks costs one open file and a few KiB.
func TestAnIdleNodeCostsItsListener(t *testing.T) {
	const first, count = 24000, 4000 // below what outgoing connections and other tests take
	n := newNodes()
	for i := range count {
		n.edge(fmt.Sprint("node-", i), fmt.Sprint(first+i))
	}
	before := hold(t) // the Nodes are the cache's
	w := newWorldAt(t, n, "127.0.0.3", first, first+count-1)
	eventually(t, "every port to be open", func() bool { return w.server.ports() == count })
	after := hold(t)
	t.Logf("a node at rest: %d bytes of heap, %d of stacks; %d nodes have %d goroutines and %d files; the kernel's slabs grew by %d bytes a node",
		(after.heap-before.heap)/count, (after.stack-before.stack)/count, count, after.goroutines-before.goroutines, after.files-before.files, (after.slab-before.slab)/count)
	if files := after.files - before.files; files > count+others {
		t.Errorf("%d nodes hold %d files, expected one each", count, files)
	}
	if sum := (after.heap - before.heap + after.stack - before.stack) / count; sum > idleLimit {
		t.Errorf("a node at rest holds %d bytes, expected %d at most", sum, idleLimit)
	}
}
