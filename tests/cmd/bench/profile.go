package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/stack"
)

// profiledEdge is edge with an edgecore and a cloudcore that can be profiled. Nothing is while it is measured.
func (s *system) profiledEdge(ctx context.Context, name string) (*stack.Edge, error) {
	if err := s.Cloud.Stop(30 * time.Second); err != nil {
		return nil, err
	}
	if err := s.ChangeCloud(func(c *v1alpha1.CloudCore) { c.Metrics.Profiling = true }); err != nil {
		return nil, err
	}
	if err := errors.Join(s.Cloud.Restart(), s.CloudReady(ctx)); err != nil {
		return nil, err
	}
	return s.edgeWith(ctx, name, func(c *v1alpha1.EdgeCore) { c.Metrics.Profiling = true })
}

// profile leaves CPU profiles of both, of six seconds in which do is done, or of its beginning.
func (s *system) profile(ctx context.Context, e *stack.Edge, what string, do func() error) error {
	const path = "/debug/pprof/profile?seconds=6"
	failed := make(chan error, 2)
	go func() {
		failed <- s.bench.saveProfile(ctx, e.HTTPClient(time.Minute), e.Metrics()+path, "edgecore-"+what)
	}()
	go func() {
		failed <- s.bench.saveProfile(ctx, http.DefaultClient, strings.TrimSuffix(s.CloudMetrics(), "/metrics")+path, "cloudcore-"+what)
	}()
	return errors.Join(do(), <-failed, <-failed)
}

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
