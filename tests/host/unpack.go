package host

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Unpack gets a package of Debian or Ubuntu with apt-get into a folder of dir, without installing it, so that none of its
// daemons starts, and returns the path of one of its programs. program is its path in the package, without a leading
// slash. What is there already is not got again.
func Unpack(ctx context.Context, pkg, program, dir string) (string, error) {
	path := filepath.Join(dir, pkg, program)
	if executable(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg, err)
	}
	work, err := os.MkdirTemp(dir, pkg+"-")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg, err)
	}
	defer os.RemoveAll(work)
	if err := download(ctx, work, pkg); err != nil {
		// A machine whose index is stale, or that has none yet.
		if err := aptGet(ctx, io.Discard, "update"); err != nil {
			return "", err
		}
		if err := download(ctx, work, pkg); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg, err)
	}
	if len(files) != 1 {
		return "", fmt.Errorf("unpack %s: expected one archive, found %q", pkg, files)
	}
	tree := filepath.Join(work, "tree")
	if text, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", files[0], tree).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack %s: %w: %s", pkg, err, strings.TrimSpace(string(text)))
	}
	if !executable(filepath.Join(tree, program)) {
		return "", fmt.Errorf("unpack %s: it has no program %s", pkg, program)
	}
	if err := os.RemoveAll(filepath.Join(dir, pkg)); err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg, err)
	}
	if err := os.Rename(tree, filepath.Join(dir, pkg)); err != nil {
		return "", fmt.Errorf("unpack %s: %w", pkg, err)
	}
	return path, nil
}

// download gets the archive of a package into a folder.
func download(ctx context.Context, folder, pkg string) error {
	cmd := exec.CommandContext(ctx, "apt-get", "-q", "download", pkg)
	cmd.Dir = folder
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w: %s", pkg, err, lastLines(string(text), 3))
	}
	return nil
}
