package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tether-edge/tether/tests/cluster"
)

// flashSize is what a flash has, in bytes.
const flashSize = 1 << 30

// flash is a block device of its own with ext4, mounted on an edge host. It goes with the host.
type flash struct {
	host   *cluster.EdgeHost
	at     string
	device string // loop7
}

// newFlash makes one and mounts it at a directory of the host, with the options that ext4 has by default.
func newFlash(ctx context.Context, h *cluster.EdgeHost, name, at string) (*flash, error) {
	image := filepath.Join(h.Dir(), name+".img")
	f, err := os.Create(image)
	if err != nil {
		return nil, fmt.Errorf("make a flash: %w", err)
	}
	if err := errors.Join(f.Truncate(flashSize), f.Close()); err != nil {
		return nil, fmt.Errorf("make a flash: %w", err)
	}
	// What ext4 would write into a new file system by and by is written at once.
	if _, err := h.Run(ctx, "mkfs.ext4", "-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", image); err != nil {
		return nil, err
	}
	if _, err := h.Run(ctx, "/bin/sh", "-c", "mkdir -p "+at+" && mount -o loop "+image+" "+at); err != nil {
		return nil, err
	}
	device, err := h.Run(ctx, "findmnt", "-n", "-o", "SOURCE", at)
	if err != nil {
		return nil, err
	}
	return &flash{host: h, at: at, device: filepath.Base(strings.TrimSpace(device))}, nil
}

// written has what waits for it written out, and returns how many bytes it has taken since it was made.
func (f *flash) written(ctx context.Context) (int64, error) {
	if _, err := f.host.Run(ctx, "sync", "-f", f.at); err != nil {
		return 0, err
	}
	path := "/sys/block/" + f.device + "/stat"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read what was written: %w", err)
	}
	// The seventh field is sectors written, of 512 bytes whatever the device's are (Documentation/block/stat.rst).
	fields := strings.Fields(string(text))
	var sectors int64
	if len(fields) < 7 {
		return 0, fmt.Errorf("read what was written: %s: expected seven fields or more, found %q", path, text)
	}
	if _, err := fmt.Sscan(fields[6], &sectors); err != nil {
		return 0, fmt.Errorf("read what was written: %s: expected a number, found %q", path, fields[6])
	}
	return sectors * 512, nil
}
