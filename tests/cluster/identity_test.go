package cluster

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestANumberThatIsAThreadsNowIsNoProcess: a cluster whose process ended is taken down though its number was given to a thread.
func TestANumberThatIsAThreadsNowIsNoProcess(t *testing.T) {
	thread, done := make(chan int), make(chan struct{})
	for range 2 { // of two threads one at least is not the process's first
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			thread <- unix.Gettid()
			<-done
		}()
	}
	defer close(done)
	for range 2 {
		if tid := <-thread; tid != os.Getpid() {
			if err := (identity{PID: tid}).signal(unix.SIGKILL); err != nil {
				t.Errorf("expected a thread's number to be passed over, found %v", err)
			}
		}
	}
}
