package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tether-edge/tether/common/mapper"
)

// The page that people copy from shows what is compiled and tested here.
func TestTheExampleInTheDocumentationIsThisProgram(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/mappers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(program), "\npackage main\n")
	var indented strings.Builder
	for line := range strings.Lines("package main\n" + code) {
		if line != "\n" {
			line = "    " + strings.ReplaceAll(line, "\t", "    ")
		}
		indented.WriteString(line)
	}
	if !strings.Contains(string(page), indented.String()) {
		t.Errorf("docs/mappers.md differs from the program; expected it to have:\n%s", indented.String())
	}
}

func TestTheExampleReadsAndWrites(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "power"), []byte("42\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := open(t.Context(), mapper.Device{Config: mapper.Config(`{"path": "` + dir + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if text, err := d.Read(t.Context(), mapper.Property{Name: "power"}); err != nil || text != "42" {
		t.Errorf("found %q, %v", text, err)
	}
	if err := d.Write(t.Context(), mapper.Property{Name: "limit"}, "50"); err != nil {
		t.Error(err)
	}
	if text, err := d.Read(t.Context(), mapper.Property{Name: "limit"}); err != nil || text != "50" {
		t.Errorf("found %q, %v", text, err)
	}
	if _, err := d.Read(t.Context(), mapper.Property{Name: "../power"}); err == nil {
		t.Error("expected a path out of the directory to be refused")
	}
	if _, err := open(t.Context(), mapper.Device{Config: mapper.Config(`{"path": "` + dir + `/none"}`)}); err == nil {
		t.Error("expected a directory that is not there to be refused")
	}
}
