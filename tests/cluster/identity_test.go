package cluster

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAPidThatAThreadHasNowIsGone: the kernel gives the number of a process that ended to a thread of another.
func TestAPidThatAThreadHasNowIsGone(t *testing.T) {
	thread := make(chan int)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		thread <- unix.Gettid()
		<-done
	}()
	defer close(done)
	tid := <-thread
	if tid == unix.Getpid() {
		t.Fatal("the goroutine runs on the first thread, whose number is the process's")
	}
	if err := (identity{PID: tid, Start: 1}).signal(unix.SIGKILL); err != nil {
		t.Errorf("a signal for a process that is gone: %v", err)
	}
}
