package scenario

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// profileTop is how many functions of a profile are shown.
const profileTop = 12

// profile takes a CPU profile of the first hub while the scenario goes on; play waits for it. Small runs have none. It costs the hub
// a hundred interrupts for each second of processor time that it uses.
func (w *world) profile(ctx context.Context, d time.Duration) {
	if w.cfg.Small || w.cfg.Profiles == "" || w.profiled != nil {
		return
	}
	name, url := "fleet-"+w.outcome.Scenario, strings.TrimSuffix(w.hubs[0].metrics, "/metrics")
	done := make(chan profiled, 1)
	w.profiled = done
	go func() {
		text, err := takeProfile(ctx, fmt.Sprintf("%s/debug/pprof/profile?seconds=%.0f", url, d.Seconds()), filepath.Join(w.cfg.Profiles, name))
		done <- profiled{text, err}
	}()
}

// profiled is the text of a profile, or why there is none.
type profiled struct {
	text string
	err  error
}

// takeProfile saves a profile and returns its first functions.
func takeProfile(ctx context.Context, url, path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("save a profile: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("take a profile: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("take a profile: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("take a profile: %s", response.Status)
	}
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("take a profile: %w", err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", fmt.Errorf("save a profile: %w", err)
	}
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", fmt.Sprintf("-nodecount=%d", profileTop), path).Output()
	if err != nil {
		return "", fmt.Errorf("read the profile %s: %w", path, err)
	}
	return profileText(string(out)), nil
}

// profileText leaves out what differs from run to run without telling anything: the file, its build and its time.
func profileText(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if name, _, found := strings.Cut(line, ": "); found && (name == "File" || name == "Build ID" || name == "Type" || name == "Time") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}
