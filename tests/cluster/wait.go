package cluster

import (
	"fmt"
	"testing"
	"time"
)

// pollInterval is how often a condition is looked at while waiting for it.
const pollInterval = 20 * time.Millisecond

// poll calls try until it returns nil and then returns nil, or returns the last error once timeout has passed or one of
// giveUp returns an error.
func poll(timeout time.Duration, what string, try func() error, giveUp ...func() error) error {
	deadline := time.Now().Add(timeout)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		for _, check := range giveUp {
			if err := check(); err != nil {
				return fmt.Errorf("waited for %s: %w", what, err)
			}
		}
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s: %w", timeout, what, err)
		}
		<-ticker.C
	}
}

// Eventually waits until try returns nil, and ends the test with its last error if that takes longer than timeout.
// what is the promise in words, such as "the pod is Ready".
func Eventually(t testing.TB, timeout time.Duration, what string, try func() error) {
	t.Helper()
	if err := poll(timeout, what, try); err != nil {
		t.Fatal(err)
	}
}
