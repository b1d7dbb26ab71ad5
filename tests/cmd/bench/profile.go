package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// saveProfile writes what url answers into .tether/profiles, after the figures were taken: for whoever asks where a figure
// comes from.
func (b *bench) saveProfile(ctx context.Context, client *http.Client, url, name string) error {
	dir := filepath.Join(b.root, ".tether", "profiles")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("save a profile: %s: %s", url, response.Status)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, name), content, 0o644)
}
