package ctl

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/cluster"
)

// output is what a program that goes on has written so far.
type output struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestKeadmCtlShowsChangesAsKubectlDoes: both watch, a pod changes and another comes, and both have written the same.
func TestKeadmCtlShowsChangesAsKubectlDoes(t *testing.T) {
	g := startGateway(t, kubelet)
	for _, flags := range []string{"", "-L app", "-o wide --show-labels", "--no-headers", "--output-watch-events", "-A", "-o name", "-o json", "-o yaml",
		"-o json --output-watch-events", "-o jsonpath={.metadata.name}:{.status.phase},", "-o custom-columns=N:.metadata.name,P:.status.phase",
		"-o custom-columns=T:.type,N:.object.metadata.name --output-watch-events"} {
		changing := pod("default", "changing", time.Hour, "1", "web", "demo")
		g.receive(object.Pods, changing)
		args := strings.Fields("get pods -w " + flags)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var ours, stock, complaints output
		var running sync.WaitGroup
		running.Go(func() { g.keadm(ctx, &ours, &complaints, args...) })
		cmd := g.stock(ctx, &stock, &complaints, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		same := func(what, last string) {
			t.Helper()
			cluster.Eventually(t, patience, what, func() error {
				a, b := said{out: ours.String()}.plain(false).out, said{out: stock.String()}.plain(false).out
				if a != b || !strings.Contains(a, last) {
					return &differ{a, b}
				}
				return nil
			})
		}
		same("get -w "+flags+" to show what there is", "changing")
		changing.Status.Phase = corev1.PodFailed
		changing.Status.Reason = "A-reason-that-needs-a-wider-column"
		g.receive(object.Pods, changing)
		later := pod("default", "later", time.Hour, "1", "web", "demo")
		g.receive(object.Pods, later)
		same("get -w "+flags+" to show the changes", "later")
		g.remove(object.Pods, later)
		cancel()
		running.Wait()
		_ = cmd.Wait() // it was ended
		if s := complaints.String(); s != "" {
			t.Errorf("get -w %s: %s", flags, s)
		}
	}
}

// differ is two outputs that are not the same.
type differ struct{ ours, stock string }

func (d *differ) Error() string { return "keadm:\n" + d.ours + "\nkubectl:\n" + d.stock }
