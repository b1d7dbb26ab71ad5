package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/tether-edge/tether/build/images"
)

// Images builds the images of build/images into .tether/images of the module, once in the life of this process, and
// returns their archives for EdgeConfig. The working directory must be inside the module.
func Images(ctx context.Context) ([]images.Archive, error) {
	archives, err := buildImages()
	if err != nil {
		return nil, err
	}
	return archives, ctx.Err()
}

// buildImages takes no context: the one build serves callers whose contexts end at different times.
var buildImages = sync.OnceValues(func() ([]images.Archive, error) {
	ctx := context.Background()
	root, err := ModuleRoot(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, ".tether", "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("build images: %w", err)
	}
	return images.Build(ctx, dir)
})
