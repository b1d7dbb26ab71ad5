package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"sigs.k8s.io/yaml"
)

// maxSize bounds a configuration file, so that a wrong path (a disk, a database) is refused quickly.
const maxSize = 1 << 20

func load[T any](path string, decode func([]byte) (*T, error)) (*T, error) {
	if path == "" {
		return nil, errors.New("no configuration given: name a file with --config; --print-defaults writes one to begin with")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; --print-defaults writes one to begin with", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return nil, fmt.Errorf("configuration %s: expected a regular file of at most %d bytes, found %s of %d bytes",
			path, maxSize, info.Mode().Type(), info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// decode fills into, which holds the defaults, from data, and validates it. The faults of decoding (unknown
// fields, wrong types) and of validation come in one error.
func decode(data []byte, into any, meta *TypeMeta, validate func() error) error {
	if documents(data) > 1 {
		return errors.New("expected one YAML document, found several: remove all but one, and the --- between them")
	}
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return fmt.Errorf("not valid YAML: %w", err)
	}
	tree, err := parse(raw)
	if err != nil {
		return err
	}
	// The header is in the defaults too; a file must still say it.
	*meta = TypeMeta{}
	var f faults
	f.assign("", reflect.ValueOf(into).Elem(), tree)
	var more Faults
	if errors.As(validate(), &more) {
		f = append(f, more...)
	}
	return f.err()
}

// parse returns the top level of a configuration, with numbers as they were written.
func parse(raw []byte) (map[string]any, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not valid YAML: %w", err)
	}
	tree, ok := v.(map[string]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("expected fields at the top level (apiVersion: %s), found %s", APIVersion, raw[:min(len(raw), 40)])
	}
	return tree, nil
}

// documents counts the YAML documents in data.
func documents(data []byte) int {
	n, content := 1, false
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		switch {
		case bytes.HasPrefix(line, []byte("---")) && content:
			n, content = n+1, false
		case len(line) > 0 && line[0] != '#' && !bytes.HasPrefix(line, []byte("---")):
			content = true
		}
	}
	if !content && n > 1 {
		n-- // a trailing separator opens no document
	}
	return n
}

// Marshal returns c, a *CloudCore or *EdgeCore, as YAML: what --print-defaults writes, and what Load reads back.
func Marshal(c any) ([]byte, error) {
	b, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write configuration as YAML: %w", err)
	}
	return b, nil
}

// Print writes c, a *CloudCore or *EdgeCore, as YAML.
func Print(w io.Writer, c any) error {
	b, err := Marshal(c)
	if err != nil {
		return err
	}
	if _, err = w.Write(b); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}
