package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// within reports whether p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func imports(s *source, visit func(where, imported string)) {
	if !s.isGo() {
		return
	}
	for _, i := range s.file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			visit(s.at(i), p)
		}
	}
}

var directions = rule{
	name: "apis and build import no project code; common imports apis (common/keadm also build); cloud/* and edge/* import " +
		"apis and common, never each other and never a sibling; only tests import tests",
	why: "each part can then be read, tested and replaced alone, and edgecore links nothing of the cloud",
	instead: "declare a small interface where it is used and let the composition root (cloud/cloudcore, edge/edgecore) join " +
		"the two, or move what both need to common",
	check: func(s *source) (out []breach) {
		imports(s, func(where, imported string) {
			target, ours := strings.CutPrefix(imported, module+"/")
			if ours && !mayImport(s.dir(), target) && !(s.isTest() && within(target, "tests")) {
				out = append(out, breach{where, fmt.Sprintf("%s imports %s", s.dir(), target)})
			}
		})
		return out
	},
}

// mayImport is the rule of directions. Both are directories from the root.
func mayImport(from, to string) bool {
	layer, rest, _ := strings.Cut(from, "/")
	toLayer, toRest, _ := strings.Cut(to, "/")
	switch layer {
	case "tests":
		return true
	case "apis", "build":
		return toLayer == layer
	case "common":
		setup := within(from, "common/keadm") || within(from, "common/cmd/keadm")
		return toLayer == "apis" || toLayer == "common" || toLayer == "build" && setup
	case "cloud", "edge":
		part, _, _ := strings.Cut(rest, "/")
		toPart, _, _ := strings.Cut(toRest, "/")
		root := part == layer+"core" || part == "cmd"
		return toLayer == "apis" || toLayer == "common" || toLayer == layer && (root || part == toPart)
	}
	return false
}

// A fence keeps a library inside some directories. Test files may cross those with tests set.
type fence struct {
	libraries []string
	inside    []string
	tests     bool
	why       string
}

var fences = []fence{
	{
		libraries: []string{"k8s.io/kubernetes"}, inside: []string{"edge/kubelet", "cloud/controlplane", "tests"}, tests: true,
		why: "its globals clash, its start cannot be undone and it costs minutes to compile",
	},
	{
		libraries: []string{"github.com/mattn/go-sqlite3", "database/sql", "modernc.org/sqlite"}, inside: []string{"edge/store", "tests"},
		why: "all SQL is in one package, with one writer and its migrations",
	},
	{
		libraries: []string{"github.com/gorilla/websocket", "github.com/coder/websocket", "golang.org/x/net/websocket", "github.com/quic-go/quic-go"},
		inside:    []string{"common/transport", "tests"},
		why:       "the rest of the code sees sessions and streams, so that a transport can be added",
	},
	{
		libraries: []string{"sigs.k8s.io/controller-runtime"}, inside: []string{"cloud", "tests"},
		why: "its caches and reconcilers are for the cluster's side; edgecore has no room for them",
	},
	{
		libraries: []string{"github.com/mochi-mqtt/server/v2"}, inside: []string{"edge/mqtt", "tests"}, tests: true,
		why: "devices are reached through one adapter",
	},
	{
		libraries: []string{"github.com/eclipse/paho.mqtt.golang"}, inside: []string{"edge/mqtt", "common/mapper/mqttpush", "tests"}, tests: true,
		why: "devices are reached through one adapter; mappers, which are programs of their own, push values with another that they need not link",
	},
	{
		libraries: []string{"github.com/simonvetter/modbus"}, inside: []string{"edge/mappers/modbus", "tests"},
		why: "each protocol is in the mapper that speaks it: edgecore links none",
	},
	{
		libraries: []string{"github.com/spf13/cobra/doc"}, inside: []string{"tests"},
		why: "it brings a Markdown renderer and text/template, which would make keadm half as large again",
	},
	{
		libraries: []string{"text/template", "html/template"}, inside: []string{"tests", "build", "cloud", "common/keadm", "common/cmd"},
		why: "executing a template turns off the linker's dead-code elimination: edgecore would grow by 25 MB",
	},
}

var fenced = rule{
	name:    "some libraries stay behind a fence",
	why:     "said with each place below",
	instead: "use the package inside the fence through a small interface of yours, or write the few lines without the library",
	check: func(s *source) (out []breach) {
		imports(s, func(where, imported string) {
			for _, f := range fences {
				hit := slices.ContainsFunc(f.libraries, func(l string) bool { return within(imported, l) })
				allowed := slices.ContainsFunc(f.inside, func(d string) bool { return within(s.dir(), d) })
				if hit && !allowed && !(f.tests && s.isTest()) {
					out = append(out, breach{where, fmt.Sprintf("%s is for %s only: %s", imported, strings.Join(f.inside, ", "), f.why)})
				}
			}
		})
		return out
	},
}
