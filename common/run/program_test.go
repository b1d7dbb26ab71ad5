package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestProgramSaysWhatIsWrongAndExitsHonestly(t *testing.T) {
	started := ""
	p := Program{
		Name: "prog", Version: "prog v1", Config: "/etc/prog.yaml",
		PrintDefaults: func(w io.Writer) error { _, err := fmt.Fprintln(w, "kind: Prog"); return err },
		Load: func(path string) (string, string, func(context.Context, *slog.Logger) error, error) {
			if path == "/bad" {
				return "", "", nil, errors.New("two faults")
			}
			return "info", "text", func(_ context.Context, log *slog.Logger) error {
				started = path
				log.Info("runs")
				if path == "/fails" {
					return errors.New("no disk")
				}
				return nil
			}, nil
		},
	}
	for _, c := range []struct {
		args            []string
		code            int
		out, errs, path string
	}{
		{[]string{"--version"}, 0, "prog v1\n", "", ""},
		{[]string{"--print-defaults"}, 0, "kind: Prog\n", "", ""},
		{nil, 0, "", "msg=runs", "/etc/prog.yaml"},
		{[]string{"--config", "/other"}, 0, "", "msg=runs", "/other"},
		{[]string{"--config", "/bad"}, 1, "", "prog: two faults\n", ""},
		{[]string{"--config", "/fails"}, 1, "", "prog: no disk\n", "/fails"},
		{[]string{"extra"}, 2, "", `expected flags only (see --help), found ["extra"]`, ""},
		{[]string{"--nonsense"}, 2, "", "flag provided but not defined", ""},
	} {
		started = ""
		var out, errs bytes.Buffer
		code := p.Main(c.args, &out, &errs)
		if code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.errs) || started != c.path {
			t.Errorf("%q: code %d, output %q, errors %q, started %q; expected %+v", c.args, code, out.String(), errs.String(), started, c)
		}
	}
}
