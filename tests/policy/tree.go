// Package policy keeps the house rules of this repository as tests: who may import whom, where a library may be used,
// how a test may wait, how large a binary may be.
//
// It promises that a failure explains itself: where, which rule, why it exists and what to do instead. `make policy`
// and `make test` run it; nothing imports it.
package policy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const module = "github.com/tether-edge/tether"

// A source is one file of the repository.
type source struct {
	path string // from the repository's root, with slashes
	data []byte
	// For Go files only.
	fset *token.FileSet
	file *ast.File
}

func (s *source) dir() string     { return path.Dir(s.path) }
func (s *source) isGo() bool      { return s.file != nil }
func (s *source) isTest() bool    { return strings.HasSuffix(s.path, "_test.go") }
func (s *source) generated() bool { return s.isGo() && ast.IsGenerated(s.file) }
func (s *source) lines() int      { return bytes.Count(s.data, []byte("\n")) }

// at returns the place of n as file:line.
func (s *source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// skipped are the directories of the repository that hold no source of ours.
var skipped = []string{".git", "bin", ".tether"}

// readTree reads every file below root.
func readTree(root string) ([]*source, error) {
	var out []*source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if slices.Contains(skipped, rel) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil // of a worktree .git is a file
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		s, err := parse(fset, rel, data)
		out = append(out, s)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the repository at %s: %w", root, err)
	}
	return out, nil
}

func parse(fset *token.FileSet, rel string, data []byte) (*source, error) {
	s := &source{path: rel, data: data, fset: fset}
	if strings.HasSuffix(rel, ".go") && !strings.Contains(rel, "testdata/") {
		f, err := parser.ParseFile(fset, rel, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		s.file = f
	}
	return s, nil
}

// A breach is one place where a rule is broken.
type breach struct {
	where string // file or file:line
	what  string // what was found
}

// A rule is one house rule. check is pure, so that its own test can feed it small files.
type rule struct {
	name    string
	why     string
	instead string
	check   func(*source) []breach
}

// report puts breaches of r into words, one paragraph for each rule, one line for each place.
func (r rule) report(found []breach) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule:    %s\nwhy:     %s\ninstead: %s", r.name, r.why, r.instead)
	for _, f := range found {
		fmt.Fprintf(&b, "\n  %s: %s", f.where, f.what)
	}
	return b.String()
}
