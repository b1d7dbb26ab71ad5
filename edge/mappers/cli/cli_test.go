package cli

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommandLine(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		said string
	}{
		{[]string{"--help"}, 0, "Modbus TCP and RTU"},
		{[]string{"--version"}, 0, "mapper"},
		{nil, 2, "expected a protocol"},
		{[]string{"zigbee"}, 2, `"zigbee"`},
		{[]string{"virtual", "--nonsense"}, 2, "nonsense"},
		{[]string{"virtual", "--log-level", "loud"}, 2, "loud"},
		{[]string{"modbus", "--socket", "/proc/nowhere/m.sock"}, 1, "listen for the edge"},
		{[]string{"virtual", "--socket", filepath.Join(dir, "m.sock"), "--edge-socket", filepath.Join(dir, "dmi.sock")}, 0, ""},
	} {
		var out strings.Builder
		ctx := ended
		if c.code == 1 {
			ctx = t.Context()
		}
		if code := main(ctx, c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.said) {
			t.Errorf("%q: expected exit code %d and %q, found %d and %q", c.args, c.code, c.said, code, out.String())
		}
	}
}
