package mapper

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPath is the longest path of a Unix socket that Linux takes.
const maxPath = 107

// ParseAddress returns the path of a mapper's socket, as MapperInfo.address has it: the path itself, as KubeEdge's mappers send
// it, or with unix:// or unix: before it. The path is absolute and in its shortest form.
func ParseAddress(address []byte) (string, error) {
	if len(address) > maxPath+len("unix://") {
		return "", fmt.Errorf("address: expected at most %d bytes, found %d", maxPath, len(address))
	}
	path := bytes.TrimPrefix(address, []byte("unix:"))
	if len(path) < len(address) {
		path = bytes.TrimPrefix(path, []byte("//"))
	}
	text := string(path)
	switch {
	case !utf8.Valid(path) || strings.ContainsFunc(text, unicode.IsControl):
		return "", fmt.Errorf("address: expected a path, found %q", text)
	case len(text) > maxPath:
		return "", fmt.Errorf("address: expected at most %d bytes, found %d", maxPath, len(text))
	case !filepath.IsAbs(text) || filepath.Clean(text) != text || text == "/":
		return "", fmt.Errorf("address: expected the absolute path of a Unix socket, found %q", text)
	}
	return text, nil
}
