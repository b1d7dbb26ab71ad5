package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/keadm"
)

func TestEachCommandHasAPageWithItsFlags(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "help" {
			return
		}
		pages++
		b, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(c.CommandPath(), " ", "-")+".8"))
		if err != nil {
			t.Error(err)
		}
		for _, want := range []string{c.Short, ".SH SYNOPSIS"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("the page of %s lacks %q:\n%s", c.CommandPath(), want, b)
			}
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(keadm.Command(keadm.IO{Out: io.Discard, Err: io.Discard, Now: time.Now}))
	if pages < 25 {
		t.Errorf("%d pages", pages)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "keadm-join.8")); err != nil || !strings.Contains(string(b), "--cloudcore-ipport") {
		t.Errorf("the page of keadm join has no --cloudcore-ipport: %v\n%s", err, b)
	}
}
