package policy

import (
	"bytes"
	"fmt"
	"go/ast"
	"path"
	"regexp"
)

// testName finds the name of a test in a page: `TestX`, `FuzzX` or `BenchmarkX`.
var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")

var namedTests = wholeRule{
	rule: rule{
		name:    "a test that a Markdown file names exists",
		why:     "the pages promise that something is guarded, and by what; a test that was renamed leaves a promise that nobody keeps",
		instead: "write the name that the test has now, or what guards it instead",
	},
	checkAll: func(all []*source) (out []breach) {
		there := map[string]bool{}
		for _, s := range all {
			if !s.isGo() || !s.isTest() {
				continue
			}
			for _, d := range s.file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
					there[f.Name.Name] = true
				}
			}
		}
		for _, s := range all {
			if path.Ext(s.path) != ".md" {
				continue
			}
			for i, line := range bytes.Split(s.data, []byte("\n")) {
				for _, m := range testName.FindAllSubmatch(line, -1) {
					if name := string(m[1]); !there[name] {
						out = append(out, breach{fmt.Sprintf("%s:%d", s.path, i+1), name + " is no test of this repository"})
					}
				}
			}
		}
		return out
	},
}
