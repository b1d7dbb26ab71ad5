package scenario

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tether-edge/tether/tests/fleet"
)

// Heartbeats of a kubelet whose node and pods do not change: it reports its Node every five minutes, and its Lease has to be
// renewed every 15 to 20 s here.
const (
	nodeReports  = 5 * time.Minute
	leaseRenewal = 17500 * time.Millisecond
)

// status has every kubelet report as kubelets do, and a pod on each node change its status every two minutes, and compares what
// that costs the API server with what cannot be less.
func status(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	if err := w.runEverywhere(ctx); err != nil {
		return err
	}
	// Edges that came back say again how they are where somebody wrote something else meanwhile, which is nobody's report.
	if err := w.still(ctx); err != nil {
		return err
	}
	lasts, pods, nodes := 5*time.Minute, 2*time.Minute, nodeReports
	if w.cfg.Small {
		lasts, pods, nodes = 4*time.Second, 2*time.Second, 4*time.Second
	}
	before, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	w.profile(ctx, time.Minute)
	start := time.Now()
	var podBeats, nodeBeats int
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		podBeats, err = w.beat(gctx, fleet.BeatPods, pods, lasts)
		return err
	})
	group.Go(func() (err error) {
		nodeBeats, err = w.beat(gctx, fleet.BeatNodes, nodes, lasts)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := w.settled(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	took := time.Since(start)
	after, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	grown := after.since(before)
	requests := func(labels ...string) float64 { return grown.sum("tether_api_requests_total", labels...) }
	podWrites, nodeWrites := requests(`verb="patch"`, `resource="pods/status"`, `code="200"`), requests(`verb="patch"`, `resource="nodes/status"`, `code="200"`)
	leases := requests(`resource="leases.coordination.k8s.io"`)
	all := requests()
	least := float64(podBeats) + float64(nodeBeats) + float64(w.cfg.Nodes)*took.Seconds()/leaseRenewal.Seconds()
	w.figure("changes of pods' statuses", "1/s", float64(podBeats)/took.Seconds())
	w.figure("reports of Nodes", "1/s", float64(nodeBeats)/took.Seconds())
	w.promise("writes per change of a pod's status", "", podWrites/float64(podBeats), 1)
	w.promise("writes per report of a Node", "", nodeWrites/float64(nodeBeats), 1)
	w.figure("requests for Leases", "1/s", leases/took.Seconds())
	w.target("reads of pods and Nodes", "", requests(`verb="get"`, `resource="pods"`)+requests(`verb="get"`, `resource="nodes"`), 0, "one follows a conflict, which follows an answer that was lost")
	w.figure("requests of the hub to the API server", "1/s", all/took.Seconds())
	w.target("requests, of the least that there can be", "", all/least, 1.1, "least: one write for each change and each report, and one renewal of each Lease every 17.5 s")
	return nil
}
