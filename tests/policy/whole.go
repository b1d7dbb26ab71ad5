package policy

import (
	"bytes"
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A wholeRule looks at all files together.
type wholeRule struct {
	rule
	checkAll func([]*source) []breach
}

// wholeTree are the rules that look at all files together.
var wholeTree = []wholeRule{layout, packageDocs, testsInTestFiles, relativeLinks, namedTests}

var topLevel = []string{"cloud", "edge", "common", "apis", "build", "tests", "docs", ".ci"}
var topFiles = []string{"go.mod", "go.sum", "Makefile", "README.md", "LICENSE", ".gitignore"}

var layout = wholeRule{
	rule: rule{
		name:    "the top level holds " + strings.Join(slices.Concat(topLevel, topFiles), ", ") + " and nothing else",
		why:     "a reader finds everything from a list that stays short",
		instead: "put it into the part that it belongs to; programs live in cloud/cmd, edge/cmd, common/cmd and tests/cmd",
	},
	checkAll: func(all []*source) (out []breach) {
		seen := map[string]bool{}
		for _, s := range all {
			top, _, below := strings.Cut(s.path, "/")
			allowed := topFiles
			if below {
				allowed = topLevel
			}
			if !slices.Contains(allowed, top) && !seen[top] {
				seen[top] = true
				out = append(out, breach{top, "not on the list"})
			}
		}
		return out
	},
}

// byDir returns the Go files of each directory.
func byDir(all []*source) (dirs []string, files map[string][]*source) {
	files = map[string][]*source{}
	for _, s := range all {
		if s.isGo() {
			if files[s.dir()] == nil {
				dirs = append(dirs, s.dir())
			}
			files[s.dir()] = append(files[s.dir()], s)
		}
	}
	slices.Sort(dirs)
	return dirs, files
}

var packageDocs = wholeRule{
	rule: rule{
		name:    `every package opens with a doc comment: "Package NAME ..." or, for a program, "Command NAME ..."`,
		why:     "it is where a reader learns what the package is for, what it promises and who uses it",
		instead: "write one, in doc.go or in the file that the package is about",
	},
	checkAll: func(all []*source) (out []breach) {
		dirs, files := byDir(all)
		for _, dir := range dirs {
			if !slices.ContainsFunc(files[dir], documented) {
				out = append(out, breach{dir, "no doc comment of that form"})
			}
		}
		return out
	},
}

func documented(s *source) bool {
	if s.file.Doc == nil || s.generated() {
		return false
	}
	name := "Package " + strings.TrimSuffix(s.file.Name.Name, "_test")
	if s.file.Name.Name == "main" {
		name = "Command " + path.Base(s.dir())
	}
	text := s.file.Doc.Text()
	return strings.HasPrefix(text, name+" ") && len(text) > len(name)+20
}

var testsInTestFiles = wholeRule{
	rule: rule{
		name:    "a package with _test.go files has a test in them",
		why:     "go test says ok for a package whose tests were all lost",
		instead: "write the test, or move a helper that others need to a package under tests",
	},
	checkAll: func(all []*source) (out []breach) {
		dirs, files := byDir(all)
		for _, dir := range dirs {
			testFiles, tests := 0, 0
			for _, s := range files[dir] {
				if s.isTest() {
					testFiles++
					tests += countTests(s)
				}
			}
			if testFiles > 0 && tests == 0 {
				out = append(out, breach{dir, fmt.Sprintf("%d _test.go files, no test", testFiles)})
			}
		}
		return out
	},
}

func countTests(s *source) (n int) {
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || f.Name.Name == "TestMain" {
			continue
		}
		for _, prefix := range []string{"Test", "Fuzz", "Benchmark", "Example"} {
			if strings.HasPrefix(f.Name.Name, prefix) {
				n++
			}
		}
	}
	return n
}

var links = regexp.MustCompile(`\]\(([^)\s]+)\)`)

var relativeLinks = wholeRule{
	rule: rule{
		name:    "a relative link in a Markdown file leads to a file, and its #fragment to a heading",
		why:     "a page that leads nowhere is worse than no link",
		instead: "mend the link, or remove it",
	},
	checkAll: func(all []*source) (out []breach) {
		files := map[string]*source{}
		for _, s := range all {
			files[s.path] = s
			for d := s.dir(); d != "."; d = path.Dir(d) {
				files[d] = nil
			}
		}
		for _, s := range all {
			if path.Ext(s.path) != ".md" {
				continue
			}
			for i, line := range bytes.Split(s.data, []byte("\n")) {
				for _, m := range links.FindAllSubmatch(line, -1) {
					if what := follow(s, string(m[1]), files); what != "" {
						out = append(out, breach{fmt.Sprintf("%s:%d", s.path, i+1), what})
					}
				}
			}
		}
		return out
	},
}

// follow returns what is wrong with a link in s, empty if nothing is.
func follow(s *source, link string, files map[string]*source) string {
	if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
		return ""
	}
	file, fragment, _ := strings.Cut(link, "#")
	target, ok := s, true
	if file != "" {
		target, ok = files[path.Join(s.dir(), file)]
	}
	if !ok {
		return link + " leads to no file"
	}
	if fragment != "" && (target == nil || !slices.Contains(anchors(target.data), fragment)) {
		return link + " leads to no heading"
	}
	return ""
}

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)

// anchors returns the fragments of a Markdown file's headings, as common renderers make them.
func anchors(data []byte) (out []string) {
	for _, line := range strings.Split(string(data), "\n") {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			a := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			out = append(out, strings.ReplaceAll(a, " ", "-"))
		}
	}
	return out
}
