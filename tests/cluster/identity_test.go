package cluster

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// The number of a process that ended may be a thread's by now.
func TestAThreadIsNoProcessToSignal(t *testing.T) {
	thread := make(chan int)
	done := make(chan struct{})
	defer close(done)
	for range 2 { // one of two locked threads is not the main one
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			thread <- unix.Gettid()
			<-done
		}()
	}
	for range 2 {
		if tid := <-thread; tid != unix.Getpid() {
			if err := signalIf(tid, unix.SIGKILL, func() bool { t.Error("a thread was taken for a process"); return false }); err != nil {
				t.Error(err)
			}
		}
	}
}
