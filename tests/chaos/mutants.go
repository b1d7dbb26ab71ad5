package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tether-edge/tether/tests/cluster"
)

// Mutant is Tether without one of its mechanisms: the suite has to notice.
type Mutant struct {
	Name string
	// Without is the mechanism, in the words of docs/reliability.md.
	Without string
	// Program is the one that is built with the edits, from Package.
	Program, Package string
	Edits            []Edit
	// Faults are those that are to bring it to light.
	Faults []string
}

// Edit replaces a text that is in a file of the repository once.
type Edit struct{ File, From, To string }

// Mutants are those that `make chaos-mutants` makes and breaks.
func Mutants() []Mutant {
	edge := func(name, without string, faults []string, edits ...Edit) Mutant {
		return Mutant{name, without, "edgecore", "./edge/cmd/edgecore", edits, faults}
	}
	cloud := func(name, without string, faults []string, edits ...Edit) Mutant {
		return Mutant{name, without, "cloudcore", "./cloud/cmd/cloudcore", edits, faults}
	}
	return []Mutant{
		edge("outbox-fsync", "What is acknowledged is on the disk first (`synchronous=FULL`).", []string{"power-cut"},
			Edit{"edge/store/writer.go", "level := \"NORMAL\"\n\tif full {", "level := \"NORMAL\"\n\tif false {"}),
		cloud("cache-synced", "Edges are let in, and compared with the cluster, only once every cache is filled.", []string{"cloud-cold"},
			Edit{"cloud/cloudcore/cloudcore.go", "if err := c.cache.WaitSynced(ctx); err != nil {\n\t\treturn nil\n\t}\n\tepoch := c.prepare(ctx)", "epoch := c.prepare(ctx)"},
			Edit{"cloud/hub/admission.go", "case !h.deps.Caches.Synced():", "case false:"},
			// Without the two alone the next one in line holds: a hub sends and deletes nothing where the edge has seen more than its
			// cache. Where the Nodes are not listed either, what is missing counts as lost with its Node, and is kept.
			Edit{"common/session/hub_send.go", "(!visible || item.Version.RV < e.sent.RV) && seen < e.sent.RV {", "(!visible || item.Version.RV < e.sent.RV) && seen > 0 && seen < e.sent.RV {"}),
		cloud("uid-precondition", "A write of an edge is for one uid, and for no later object of the same name.", []string{"pod-replaced"},
			Edit{"cloud/upstream/overlay.go", `if j.write.Uid != "" && j.write.Uid != string(current.GetUID()) {`, "if false {"},
			Edit{"cloud/upstream/writes.go", "uid, grace := types.UID(j.write.Uid), int64(0)", "grace := int64(0)"},
			Edit{"cloud/upstream/writes.go", "GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid},", "GracePeriodSeconds: &grace,"},
			Edit{"cloud/upstream/writes.go", "\t\"k8s.io/apimachinery/pkg/types\"\n", ""}),
		cloud("epoch-check", "A CloudCore that finds a later epoch in a node's Lease ends its session of that node.", []string{"cloned"},
			Edit{"cloud/node/lease.go", "if l != nil && r.claimed &&", "if false && l != nil && r.claimed &&"}),
		edge("overlay-reassert", "Where the cloud shows other values in fields that are the edge's, the edge writes its own again.", []string{"cut-minute"},
			Edit{"edge/store/batch.go", "if same && overlay != nil && !old.Tombstone {", "if false && same && overlay != nil && !old.Tombstone {"}),
		edge("stand-in", "A pod that the kubelet ended for good while the cluster cannot hear of it has a copy in its place.", []string{"disk-pressure"},
			Edit{"edge/steward/judge.go", "ok, _ := keepable(o.Pod)\n\treturn ok\n", "ok, _ := keepable(o.Pod)\n\treturn false && ok\n"}),
	}
}

// apply returns the text of an edited file.
func (e Edit) apply(text string) (string, error) {
	if n := strings.Count(text, e.From); n != 1 {
		return "", fmt.Errorf("%s: expected %q once, found it %d times: the mutant has to follow the code", e.File, e.From, n)
	}
	return strings.Replace(text, e.From, e.To, 1), nil
}

// files returns the edited files of the repository at root, by path.
func (m Mutant) files(root string) (map[string]string, error) {
	edited := map[string]string{}
	for _, e := range m.Edits {
		path := filepath.Join(root, e.File)
		if _, ok := edited[path]; !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("make mutant %s: %w", m.Name, err)
			}
			edited[path] = string(b)
		}
		text, err := e.apply(edited[path])
		if err != nil {
			return nil, fmt.Errorf("make mutant %s: %w", m.Name, err)
		}
		edited[path] = text
	}
	return edited, nil
}

// build makes a directory of programs in dir: the mutant, and links to the others of the project, which are in bin.
func (m Mutant) build(ctx context.Context, root, bin, dir string) error {
	edited, err := m.files(root)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("make mutant %s: %w", m.Name, err)
	}
	overlay := map[string]map[string]string{"Replace": {}}
	for path, text := range edited {
		to := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(path, root+"/"), "/", "-"))
		overlay["Replace"][path] = to
		err = errors.Join(err, os.WriteFile(to, []byte(text), 0o644))
	}
	list, e := json.Marshal(overlay)
	err = errors.Join(err, e, os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o644))
	programs, e := os.ReadDir(bin)
	err = errors.Join(err, e)
	for _, p := range programs {
		if p.Name() != m.Program && !p.IsDir() {
			err = errors.Join(err, os.Symlink(filepath.Join(bin, p.Name()), filepath.Join(dir, p.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("make mutant %s: %w", m.Name, err)
	}
	stamps, err := cluster.KubernetesStamps(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-ldflags=-s -w "+stamps, "-o", filepath.Join(dir, m.Program), m.Package)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build mutant %s: %w: %s", m.Name, err, text)
	}
	return nil
}

// Break makes a mutant, whose programs come to lie in work, and runs seeds of its faults until one fails. It returns the failure, or an error if tries seeds
// passed: nothing noticed. bin are the programs as they are.
func (m Mutant) Break(ctx context.Context, cfg Config, bin, work string, tries int) (noticed string, err error) {
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(cfg.Out, "mutant %s: without: %s\n", m.Name, m.Without)
	dir := filepath.Join(work, m.Name)
	if err := m.build(ctx, root, bin, dir); err != nil {
		return "", err
	}
	if err := os.Setenv(cluster.BinEnv, dir); err != nil {
		return "", fmt.Errorf("use the programs of mutant %s: %w", m.Name, err)
	}
	cfg.Only, cfg.Slots, cfg.Logs = m.Faults, len(m.Faults), filepath.Join(dir, "logs")
	for range tries {
		result, err := Run(ctx, cfg)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		for _, s := range result.Slots {
			if s.Failed {
				return result.Failure, nil
			}
		}
		if err != nil {
			return "", fmt.Errorf("mutant %s failed before its fault: %w", m.Name, err)
		}
		cfg.Seed++
	}
	return "", fmt.Errorf("nothing noticed that mutant %s lacks: %s", m.Name, m.Without)
}

// BreakAll breaks the mutants of those names, or all, and tells of each what noticed it.
func BreakAll(ctx context.Context, cfg Config, names []string, bin, work string, tries int) error {
	var faults []error
	known := map[string]bool{}
	for _, m := range Mutants() {
		known[m.Name] = true
	}
	for _, name := range names {
		if !known[name] {
			return fmt.Errorf("expected names of mutants, found %q", name)
		}
	}
	var report strings.Builder
	for _, m := range Mutants() {
		if len(names) > 0 && !strings.Contains(","+strings.Join(names, ",")+",", ","+m.Name+",") {
			continue
		}
		noticed, err := m.Break(ctx, cfg, bin, work, tries)
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			noticed = "NOT NOTICED: " + err.Error()
		}
		fmt.Fprintf(&report, "%s, by %s: %s\n", m.Name, strings.Join(m.Faults, ", "), noticed)
	}
	_, err := io.WriteString(cfg.Out, "\nWhat noticed each mutant:\n"+report.String())
	return errors.Join(append(faults, err)...)
}
