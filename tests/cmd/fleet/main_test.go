package main

import (
	"io"
	"strings"
	"testing"

	"github.com/tether-edge/tether/tests/fleet/scenario"
)

func TestWrongArgumentsAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--protocol tcp":  `expected websocket or quic, found "tcp"`,
		"--nodes 0":       "expected numbers above 0",
		"--nodes many":    "invalid value",
		"storm":           `found ["storm"]`,
		"--per-process 0": "expected numbers above 0",
	} {
		if _, _, err := parse(strings.Fields(args), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected an error with %q, found %v", args, want, err)
		}
	}
	if _, err := scenario.Run(t.Context(), scenario.Config{Scenarios: []string{"idle", "strom"}, Out: io.Discard}); err == nil || !strings.Contains(err.Error(), `found "strom"`) {
		t.Errorf("expected an error that names the scenario, found %v", err)
	}
}

func TestArgumentsSayWhatToRun(t *testing.T) {
	cfg, o, err := parse(strings.Fields("--nodes 500 --scenarios idle,storm --protocol quic --small --out a"), io.Discard)
	if err != nil || cfg.Nodes != 500 || len(cfg.Scenarios) != 2 || cfg.Protocol != "quic" || !cfg.Small || o.results != "a" || !o.measure {
		t.Errorf("found %+v, %+v, %v", cfg, o, err)
	}
	if _, o, err = parse(strings.Fields("--scenarios none --write-docs page.md"), io.Discard); err != nil || o.measure || o.docs != "page.md" {
		t.Errorf("found %+v, %v", o, err)
	}
}
