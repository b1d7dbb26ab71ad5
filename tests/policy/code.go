package policy

import (
	"fmt"
	"go/ast"
	"strings"
)

const (
	maxFile = 600 // lines
	maxMain = 40
)

var fileLength = rule{
	name:    fmt.Sprintf("a source file has at most %d lines", maxFile),
	why:     "a file is one idea, and a reader holds one idea",
	instead: "look for the second idea and give it a file of its own",
	check: func(s *source) []breach {
		if n := s.lines(); s.isGo() && !s.generated() && n > maxFile {
			return []breach{{s.path, fmt.Sprintf("%d lines", n)}}
		}
		return nil
	},
}

var mainLength = rule{
	name:    fmt.Sprintf("a main has at most %d lines", maxMain),
	why:     "main only parses, wires and exits; what it would hold besides could not be tested",
	instead: "move it to the composition root (cloud/cloudcore, edge/edgecore) or to the package of its subject",
	check: func(s *source) []breach {
		inCmd := strings.Contains(s.dir(), "/cmd/") && !within(s.dir(), "tests")
		if n := s.lines(); s.isGo() && !s.isTest() && inCmd && n > maxMain {
			return []breach{{s.path, fmt.Sprintf("%d lines", n)}}
		}
		return nil
	},
}

var noInit = rule{
	name:    "no init functions",
	why:     "what runs before main cannot be ordered, configured or left out by a test",
	instead: "build the value in a constructor and pass it in",
	check: func(s *source) (out []breach) {
		if !s.isGo() || s.generated() {
			return nil
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				out = append(out, breach{s.at(f), "func init"})
			}
		}
		return out
	},
}

var noSkip = rule{
	name:    "no test skips itself",
	why:     "a skipped test is green on the day it would have been red",
	instead: "make what the test needs (see tests/cluster), or let it fail and say what is missing",
	check: func(s *source) (out []breach) {
		calls(s, func(c *ast.CallExpr, recv, name string, _ bool) {
			if s.isTest() && (name == "Skip" || name == "Skipf" || name == "SkipNow") && recv != "" {
				out = append(out, breach{s.at(c), recv + "." + name})
			}
		})
		return out
	},
}

var noSleep = rule{
	name:    "no test sleeps to let something happen",
	why:     "it is too short on a busy machine and too long on every other",
	instead: "wait on the condition in a loop with a deadline, or use testing/synctest, whose clock costs nothing",
	check: func(s *source) (out []breach) {
		synctest := false
		imports(s, func(_, p string) { synctest = synctest || p == "testing/synctest" })
		calls(s, func(c *ast.CallExpr, recv, name string, inLoop bool) {
			// In a loop a sleep is the step of a poll; under synctest it moves a clock that is not the machine's.
			if s.isTest() && recv == "time" && name == "Sleep" && !inLoop && !synctest {
				out = append(out, breach{s.at(c), "time.Sleep outside a loop"})
			}
		})
		return out
	},
}

// calls visits every call of recv.name, and says whether it is inside a for statement.
func calls(s *source, visit func(c *ast.CallExpr, recv, name string, inLoop bool)) {
	if !s.isGo() {
		return
	}
	var walk func(n ast.Node, inLoop bool)
	walk = func(n ast.Node, inLoop bool) {
		ast.Inspect(n, func(m ast.Node) bool {
			switch m := m.(type) {
			case *ast.ForStmt:
				if !inLoop {
					walk(m, true)
					return false
				}
			case *ast.CallExpr:
				if sel, ok := m.Fun.(*ast.SelectorExpr); ok {
					if id, ok := sel.X.(*ast.Ident); ok {
						visit(m, id.Name, sel.Sel.Name, inLoop)
					}
				}
			}
			return true
		})
	}
	walk(s.file, false)
}

// perFile are the rules that look at one file at a time.
var perFile = []rule{directions, fenced, fileLength, mainLength, noInit, noSkip, noSleep, foreignNames, machinePaths}
