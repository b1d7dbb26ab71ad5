// Package images makes the container images of the quickstart and the tests on the spot, since an edge site, like a
// test machine, may reach no registry.
//
// It promises static binaries (no C library, so the image holds the binary alone), images that are equal byte for byte
// when their programs are, and archives that containerd imports (`ctr images import`). The host part of an image's
// name is a name only: nothing ever contacts it. Used by tests/cluster and the quickstart.
package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// The names under which the images are known to containerd and to pod specs.
const (
	Pause = "tether.local/pause:v1"
	Demo  = "tether.local/demo:v1"
)

// module is the import path of everything that is built here.
const module = "github.com/tether-edge/tether/"

// Archive is an image on disk.
type Archive struct {
	Name string // the full name, such as Pause
	Path string // an OCI archive (a tar of an OCI image layout)
}

// Build compiles every program of this package for this machine's kernel and packs each into an archive in dir, which
// must exist. It needs the go command and must be called with a working directory inside the module. Archives that
// are there already are replaced, each in one step, so that several processes may build into one directory.
func Build(ctx context.Context, dir string) ([]Archive, error) {
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return nil, fmt.Errorf("build images: %w", err)
	}
	defer os.RemoveAll(work)
	archives := []Archive{
		{Name: Pause, Path: filepath.Join(dir, "pause.tar")},
		{Name: Demo, Path: filepath.Join(dir, "demo.tar")},
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, a := range archives {
		group.Go(func() error {
			program := strings.TrimSuffix(filepath.Base(a.Path), ".tar")
			binary := filepath.Join(work, program)
			if err := compile(ctx, module+"build/images/"+program, "-s -w", binary); err != nil {
				return err
			}
			return pack(a, binary)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return archives, nil
}

// CloudCore compiles cloudcore and packs it, under a full image name, into cloudcore.tar in dir. ldflags are the linker's
// flags, which carry the version. It is to be called as Build is.
func CloudCore(ctx context.Context, dir, name, ldflags string) (Archive, error) {
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return Archive{}, fmt.Errorf("build image %s: %w", name, err)
	}
	defer os.RemoveAll(work)
	binary := filepath.Join(work, "cloudcore")
	if err := compile(ctx, module+"cloud/cmd/cloudcore", ldflags, binary); err != nil {
		return Archive{}, err
	}
	a := Archive{Name: name, Path: filepath.Join(dir, "cloudcore.tar")}
	return a, pack(a, binary)
}

// compile builds one program without cgo, so that it runs in an image that holds nothing else.
func compile(ctx context.Context, program, ldflags, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags="+ldflags, "-o", output, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program of image %s: %w: %s", program, err, strings.TrimSpace(string(text)))
	}
	return nil
}
