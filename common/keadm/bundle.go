package keadm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// bundle is a support bundle: text files, each masked and bounded. What could not be had is noted in it.
type bundle struct {
	redactor
	name    string // of the directory in it
	made    time.Time
	files   []bundled
	missing []string
}

type bundled struct {
	name string
	text string
}

// add puts a file into it, at most limit bytes from its end, or notes why there is none.
func (b *bundle) add(name string, limit int, data []byte, err error) {
	if err != nil {
		b.missing = append(b.missing, b.text(fmt.Sprintf("%s: %v", name, err)))
		return
	}
	// Masked before it is cut: half a secret has no form.
	text := b.text(strings.ToValidUTF8(string(data), "?"))
	if len(text) > limit {
		_, text, _ = strings.Cut(text[len(text)-limit:], "\n")
	}
	b.files = append(b.files, bundled{name, text})
}

// write returns the archive.
func (b *bundle) write() ([]byte, error) {
	files := b.files
	if len(b.missing) > 0 {
		files = append(files, bundled{"missing.txt", strings.Join(b.missing, "\n") + "\n"})
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	var err error
	for _, f := range files {
		err = errors.Join(err, t.WriteHeader(&tar.Header{Name: b.name + "/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: b.made}))
		_, werr := io.WriteString(t, f.text)
		err = errors.Join(err, werr)
	}
	if err = errors.Join(err, t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("make the archive: %w", err)
	}
	return out.Bytes(), nil
}
