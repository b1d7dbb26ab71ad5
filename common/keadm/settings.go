package keadm

import (
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// withSettings returns a configuration file with `key.path=value` settings in it. A value is YAML: 5, true, [a, b], text.
func withSettings(file []byte, settings []string) ([]byte, error) {
	tree := map[string]any{}
	if err := yaml.Unmarshal(file, &tree); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	for _, s := range settings {
		path, text, ok := strings.Cut(s, "=")
		if !ok || path == "" {
			return nil, fmt.Errorf("%w: --set: expected KEY.PATH=VALUE, found %q", errUsage, s)
		}
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, fmt.Errorf("%w: --set %s: the value is no YAML: %w", errUsage, path, err)
		}
		if err := set(tree, strings.Split(path, "."), value); err != nil {
			return nil, fmt.Errorf("%w: --set %s: %w", errUsage, path, err)
		}
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return yaml.JSONToYAML(b)
}

func set(tree map[string]any, path []string, value any) error {
	for _, key := range path[:len(path)-1] {
		next, ok := tree[key].(map[string]any)
		if tree[key] != nil && !ok {
			return fmt.Errorf("%s holds a value, expected more of the path below it", key)
		}
		if !ok {
			next = map[string]any{}
			tree[key] = next
		}
		tree = next
	}
	tree[path[len(path)-1]] = value
	return nil
}

// parseLabels reads KEY=VALUE pairs.
func parseLabels(pairs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok {
			return nil, fmt.Errorf("%w: --labels: expected KEY=VALUE, found %q", errUsage, p)
		}
		out[k] = v
	}
	return out, nil
}
