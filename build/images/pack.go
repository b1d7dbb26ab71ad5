package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pack writes an image whose one layer holds binary as its entry point.
func pack(a Archive, binary string) (err error) {
	image, err := assemble(binary)
	if err != nil {
		return fmt.Errorf("assemble image %s: %w", a.Name, err)
	}
	folder, err := os.MkdirTemp(filepath.Dir(a.Path), "layout-")
	if err != nil {
		return fmt.Errorf("pack image %s: %w", a.Name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()

	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", a.Name, err)
	}
	// The first annotation is containerd's own and carries the whole name; the second is the one of the OCI layout.
	annotations := map[string]string{"io.containerd.image.name": a.Name, "org.opencontainers.image.ref.name": a.Name}
	if err := path.AppendImage(image, layout.WithAnnotations(annotations)); err != nil {
		return fmt.Errorf("pack image %s: %w", a.Name, err)
	}
	if err := archive(folder, a.Path); err != nil {
		return fmt.Errorf("pack image %s: %w", a.Name, err)
	}
	return nil
}

// assemble makes the image: OCI media types, one layer, the platform of this machine.
func assemble(binary string) (v1.Image, error) {
	name := "/" + filepath.Base(binary)
	content, err := layerOf(binary, name)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make the layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = []string{name}
	config.Config.Env = []string{"PATH=/"}
	return mutate.ConfigFile(image, config)
}

// layerOf returns a tar with the binary and the directories that pods expect to mount into. It carries no times and
// no owners, so equal binaries give equal layers.
func layerOf(binary, name string) ([]byte, error) {
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("read the program: %w", err)
	}
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	headers := []*tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
		{Name: name[1:], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))},
	}
	if name == "/demo" {
		// What kubectl cp runs. The content follows the last header, so the link comes before it.
		headers = slices.Insert(headers, 2, &tar.Header{Name: "tar", Typeflag: tar.TypeSymlink, Linkname: name, Mode: 0o777})
	}
	for _, header := range headers {
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write the layer: %w", err)
		}
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("write the layer: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write the layer: %w", err)
	}
	return buffer.Bytes(), nil
}

// archive puts the files of folder into a tar at path, in a fixed order; the tar appears only when it is whole.
func archive(folder, path string) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("create the archive: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, temporary.Close(), os.Remove(temporary.Name()))
		}
	}()
	w := tar.NewWriter(temporary)
	err = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(folder, file)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := temporary.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return os.Rename(temporary.Name(), path)
}
