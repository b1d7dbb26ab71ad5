package cluster

import (
	"os/exec"
	"runtime"
	"sync"
)

// starter starts processes from one operating system thread that lives as long as the cluster is held. The kernel
// delivers a parent-death signal when the thread that started the child ends, not when its process does, and the Go
// runtime ends threads as it sees fit.
type starter struct {
	requests chan startRequest
	done     chan struct{}
	once     sync.Once
}

type startRequest struct {
	cmd    *exec.Cmd
	result chan error
}

func newStarter() *starter {
	s := &starter{requests: make(chan startRequest), done: make(chan struct{})}
	go s.run()
	return s
}

func (s *starter) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for {
		select {
		case r := <-s.requests:
			r.result <- r.cmd.Start()
		case <-s.done:
			return
		}
	}
}

// start is cmd.Start on the starter's thread.
func (s *starter) start(cmd *exec.Cmd) error {
	r := startRequest{cmd: cmd, result: make(chan error, 1)}
	s.requests <- r
	return <-r.result
}

// stop ends the thread, and with it every child that asked to die with its parent.
func (s *starter) stop() { s.once.Do(func() { close(s.done) }) }
