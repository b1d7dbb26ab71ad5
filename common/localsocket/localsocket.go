// Package localsocket makes Unix sockets that are for their owner alone and for one process at a time, and tells who is at the other end.
//
// It promises that a socket which a killed process left is no obstacle, that one which is in use is never taken away, and that
// at no moment others than its owner can connect. The edge and its mappers listen with it.
package localsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Listen makes the socket, for its owner alone. It takes the place of a socket that nobody listens on; the error says if
// another process does. The directory is made if there is none.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	// Who may write into the directory can put a socket of its own there, and hear and say what it likes.
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return nil, fmt.Errorf("expected a directory that only its owner can write to, found %s with mode %04o: chmod go-w %s", dir, mode.Perm(), dir)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		// Set before the file exists, so that there is no moment at which others can connect.
		return errors.Join(raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket that a process left which was killed.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("expected no file or a socket at %s, found %s: move it away", path, info.Mode())
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // it was opened to see whether it can be
		return fmt.Errorf("expected nobody to listen on %s, found another process that does: stop it (is another edgecore running?)", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("see whether another process listens on %s: %w", path, err)
	}
	return os.Remove(path)
}

// Peer returns the process that opened a connection of a Unix socket; 0 where that is not to be seen from here.
func Peer(c net.Conn) (pid int, err error) {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("expected a connection of a Unix socket, found %T", c)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *syscall.Ucred
	failed := raw.Control(func(fd uintptr) {
		peer, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err := errors.Join(failed, err); err != nil {
		return 0, fmt.Errorf("ask who is at the other end of a socket: %w", err)
	}
	return int(peer.Pid), nil
}
