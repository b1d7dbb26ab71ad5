package mapper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxPath is the longest path of a Unix socket that Linux takes.
const maxPath = 107

// ParseAddress returns the path of a mapper's socket, as MapperInfo.address has it: the path itself, as KubeEdge's mappers send
// it, or with unix:// or unix: before it. The path is absolute and in its shortest form.
func ParseAddress(address []byte) (string, error) {
	if len(address) > maxPath+len("unix://") {
		return "", fmt.Errorf("address: expected at most %d bytes, found %d", maxPath, len(address))
	}
	path := bytes.TrimPrefix(address, []byte("unix:"))
	if len(path) < len(address) {
		path = bytes.TrimPrefix(path, []byte("//"))
	}
	text := string(path)
	switch {
	case !utf8.Valid(path) || strings.ContainsFunc(text, unicode.IsControl):
		return "", fmt.Errorf("address: expected a path, found %q", text)
	case len(text) > maxPath:
		return "", fmt.Errorf("address: expected at most %d bytes, found %d", maxPath, len(text))
	case !filepath.IsAbs(text) || filepath.Clean(text) != text || text == "/":
		return "", fmt.Errorf("address: expected the absolute path of a Unix socket, found %q", text)
	}
	return text, nil
}

// listen makes the socket, for its owner alone. It takes the place of a socket that nobody listens on.
func listen(ctx context.Context, path string) (net.Listener, error) {
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
