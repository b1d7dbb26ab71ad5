// Command pause is the process that holds a pod's namespaces open.
//
// It promises to stay until it is told to go (SIGINT or SIGTERM), to reap every orphan of a pod that shares its
// process namespace, and to need nothing: no argument, no file, no network. It runs as the entry point of the image
// that containerd is given as sandbox image.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// reap collects every child that has ended. Signals of the same kind merge while one is pending, so one SIGCHLD may
// stand for several children.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if pid <= 0 || err != nil && err != syscall.EINTR {
			return
		}
	}
}
