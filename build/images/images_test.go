package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
)

// files reads a tar into memory.
func files(t *testing.T, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := map[string][]byte{}
	r := tar.NewReader(file)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchivesAreOCILayoutsThatNameTheirImage(t *testing.T) {
	dir := t.TempDir()
	archives, err := Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range archives {
		names = append(names, a.Name)
		content := files(t, a.Path)
		var index struct {
			Manifests []struct {
				MediaType   string
				Digest      string
				Annotations map[string]string
			}
		}
		if err := json.Unmarshal(content["index.json"], &index); err != nil {
			t.Fatal(err)
		}
		if len(content["oci-layout"]) == 0 || len(index.Manifests) != 1 {
			t.Fatalf("%s: expected an OCI layout with one image, found %s", a.Path, content["index.json"])
		}
		m := index.Manifests[0]
		if m.MediaType != "application/vnd.oci.image.manifest.v1+json" || m.Annotations["io.containerd.image.name"] != a.Name {
			t.Errorf("%s: expected an OCI manifest named %s, found %+v", a.Path, a.Name, m)
		}
	}
	if !slices.Equal(names, []string{Pause, Demo}) {
		t.Errorf("expected %s and %s, found %v", Pause, Demo, names)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(archives) {
		t.Errorf("expected the archives alone in the directory, found %v, %v", entries, err)
	}
}

func TestEqualProgramsMakeEqualArchives(t *testing.T) {
	program := t.TempDir() + "/program"
	if err := os.WriteFile(program, bytes.Repeat([]byte("program "), 10_000), 0o755); err != nil {
		t.Fatal(err)
	}
	var sums [2][sha256.Size]byte
	for i := range sums {
		a := Archive{Name: Demo, Path: t.TempDir() + "/a.tar"}
		if err := pack(a, program); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(a.Path)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(text)
	}
	if sums[0] != sums[1] {
		t.Error("expected the same archive twice, found two that differ")
	}
}
