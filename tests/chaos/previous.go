package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// former is the commit whose CloudCore stands for the previous version: none is released yet, and this one knows neither methods of
// devices nor the name of an edge's process.
const former = "564e235"

func versionFaults() []Fault {
	return []Fault{{Name: "cloud-previous", Class: Cloud, What: "Both CloudCores are replaced by ones of an older version (commit `" + former + "`), and by the present one again.",
		Promise: "They agree with the edge on what all know; nothing on the site stops, and nothing is lost.", Least: 20 * time.Second, Most: 40 * time.Second, Alone: true, Former: true, begin: replaceClouds}}
}

// buildFormer builds the older CloudCore, if it is not there. It needs the repository's history.
func buildFormer(ctx context.Context) (string, error) {
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".tether", "former", former)
	program := filepath.Join(dir, "cloudcore")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	stamps, err := cluster.KubernetesStamps(ctx)
	if err != nil {
		return "", err
	}
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o755); err != nil {
		return "", fmt.Errorf("build the older CloudCore: %w", err)
	}
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "/bin/sh", "-c", fmt.Sprintf("git -c safe.directory='*' -C %s archive %s | tar x -C %s", root, former, source)),
		exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w "+stamps, "-o", program, "./cloud/cmd/cloudcore"),
	} {
		cmd.Dir = source
		if text, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the older CloudCore, of commit %s of this repository: %w: %s", former, err, text)
		}
	}
	return program, nil
}

func replaceClouds(f *fault) (func() error, error) {
	older, err := buildFormer(f.ctx)
	if err != nil {
		return nil, err
	}
	present, err := cluster.Program(f.ctx, "cloudcore")
	if err != nil {
		return nil, err
	}
	// One after the other, as an upgrade goes.
	roll := func(program string) error {
		for _, c := range f.w.clouds {
			if err := c.Stop(stopGrace); err != nil {
				return err
			}
			config := c.config + ".said"
			if err := writeSaid(c.config, config); err != nil {
				return err
			}
			p, err := f.w.cluster.Start(cluster.ProcessConfig{Name: c.Name(), Argv: []string{program, "--config", config}})
			if err != nil {
				return err
			}
			c.Process = p
			if err := until(f.ctx, patience, c.Name()+" to let edges in", func() error { return c.ready(f.ctx) }); err != nil {
				return err
			}
		}
		return f.linked()
	}
	return func() error { return roll(present) }, roll(older)
}

// writeSaid writes what a CloudCore's configuration says other than the defaults, as an operator's file does: the older program knows
// no fields of later ones, and refuses a file that names them.
func writeSaid(config, to string) error {
	var fields [2]map[string]any
	text, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("write an older configuration: %w", err)
	}
	defaults, err := v1alpha1.Marshal(v1alpha1.DefaultCloudCore())
	if err := errors.Join(err, yaml.Unmarshal(text, &fields[0]), yaml.Unmarshal(defaults, &fields[1])); err != nil {
		return fmt.Errorf("write an older configuration: %w", err)
	}
	said := without(fields[0], fields[1])
	said["apiVersion"], said["kind"] = fields[0]["apiVersion"], fields[0]["kind"]
	if text, err = yaml.Marshal(said); err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write an older configuration: %w", err)
	}
	return nil
}

// without returns the fields that differ from the defaults.
func without(fields, defaults map[string]any) map[string]any {
	said := map[string]any{}
	for name, value := range fields {
		section, ok := value.(map[string]any)
		if inner, both := defaults[name].(map[string]any); ok && both {
			if section = without(section, inner); len(section) > 0 {
				said[name] = section
			}
		} else if !reflect.DeepEqual(value, defaults[name]) {
			said[name] = value
		}
	}
	return said
}
