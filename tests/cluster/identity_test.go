package cluster

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAPidThatAThreadHasNowIsGone: the kernel gives the number of a process that ended to a thread of another.
func TestAPidThatAThreadHasNowIsGone(t *testing.T) {
	threads := make(chan int)
	done := make(chan struct{})
	defer close(done)
	for range 2 { // one of them may be the first thread, whose number is the process's
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			threads <- unix.Gettid()
			<-done
		}()
	}
	tid := <-threads
	if other := <-threads; tid == unix.Getpid() {
		tid = other
	}
	if err := (identity{PID: tid, Start: 1}).signal(unix.SIGKILL); err != nil {
		t.Errorf("a signal for a process that is gone: %v", err)
	}
}
