package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// readRelease fills in the distribution. The file is looked for where os-release(5) says, in that order.
func (h *Host) readRelease(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(root, "usr/lib/os-release"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		h.Distribution, h.PrettyName = "unknown", "a distribution without os-release"
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the distribution: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && !strings.HasPrefix(key, "#") {
			fields[key] = unquote(value)
		}
	}
	h.Distribution, h.Release, h.PrettyName = fields["ID"], fields["VERSION_ID"], fields["PRETTY_NAME"]
	if h.PrettyName == "" {
		h.PrettyName = strings.TrimSpace(h.Distribution + " " + h.Release)
	}
	return nil
}

// unquote removes the shell quotes that os-release allows around a value.
func unquote(value string) string {
	if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
		return value[1 : len(value)-1]
	}
	return value
}

// Bits of the capability sets, from linux/capability.h.
const (
	capSysAdmin    = 21
	capSysResource = 24
)

// readPrivileges takes the effective user and capabilities from a /proc/PID/status file.
func (h *Host) readPrivileges(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the privileges of this process: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		fields := strings.Fields(value)
		switch {
		case key == "Uid" && len(fields) >= 2: // real, effective, saved, file system
			h.Root = fields[1] == "0"
		case key == "CapEff" && len(fields) == 1:
			set, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil {
				return fmt.Errorf("%s: expected CapEff as a hexadecimal number, found %q", path, fields[0])
			}
			h.SysAdmin = set&(1<<capSysAdmin) != 0
			h.SysResource = set&(1<<capSysResource) != 0
		}
	}
	return nil
}
