package edgecore

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/kubelet"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/steward"
	"github.com/tether-edge/tether/edge/store"
)

func (e *EdgeCore) buildSteward() (err error) {
	e.steward, err = steward.New(steward.Config{NodeName: e.cfg.NodeName, StandIns: e.cfg.Steward.StandIns, FenceAfter: e.cfg.Steward.FenceAfter.Std()},
		steward.Deps{Store: stewardStore{e.store}, Link: stewardLink{e.link}, Events: e.served, Show: e.showKept, Sandboxes: e.runningNames, Log: e.part("steward"), Now: e.deps.Now,
			Boot: boot(), Registerer: e.reg})
	return err
}

// stewards runs the steward from the first sync on: before that there is nothing to look after, nor a Node to show it at.
func (e *EdgeCore) stewards(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-e.store.FirstSync():
	}
	return e.steward.Start(ctx)
}

func (e *EdgeCore) runningNames(ctx context.Context) (map[string][]types.UID, error) {
	return kubelet.RunningNames(ctx, e.cfg.Kubelet.ContainerRuntimeEndpoint)
}

// boot tells the machine's boots and uptime. Without an id every process is one of another boot, which fences too early and never
// too late.
func boot() steward.Boot {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		id = []byte(time.Now().String())
	}
	return steward.Boot{ID: strings.TrimSpace(string(id)), Uptime: func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
			panic(err) // Linux has had it since 2.6.39
		}
		return time.Duration(t.Nano())
	}}
}

type stewardLink struct{ *link.Link }

func (l stewardLink) State() (connected, synced bool) {
	s := l.Status()
	return s.Connected, s.Connected && s.Synced
}

const stewardNotes = "steward"

type stewardStore struct{ *store.Store }

func (s stewardStore) Undelivered(ctx context.Context) (map[string]bool, error) {
	uids := map[string]bool{}
	return uids, s.Queue(ctx, func(h store.Head) error {
		if h.Key.Kind == object.Pods && h.Op == object.OpOverlay {
			uids[h.UID] = true
		}
		return nil
	})
}

func (s stewardStore) Keep(ctx context.Context, key string, value []byte) error {
	return s.Store.Keep(ctx, []store.Note{{Bucket: stewardNotes, Key: key, Value: value}})
}

func (s stewardStore) Notes(ctx context.Context, visit func(key string, value []byte) error) error {
	return s.Store.Notes(ctx, stewardNotes, visit)
}

// fenceLag is how much later than the cloud this edge may notice that they do not hear each other: three pings without an answer, and as
// much for a connection that carries one way only.
func (e *EdgeCore) fenceLag() time.Duration { return 6*e.cfg.Cloud.PingInterval.Std() + 30*time.Second }

// shownPods is how many pods a condition names.
const shownPods = 10

// showKept shows at the Node what the site has otherwise than the cluster, and after what time it ends what is fenced. A Node on which
// there was never anything to show gets no condition.
func (e *EdgeCore) showKept(ctx context.Context, s steward.Summary) error {
	o, _, err := e.own.Get(ctx)
	if err != nil {
		return err
	}
	annotations := map[string]*string{}
	if after := e.cfg.Steward.FenceAfter.Std(); after > 0 {
		if word := (after + e.fenceLag()).String(); o.Annotations[object.AnnotationFenceAfter] != word {
			annotations[object.AnnotationFenceAfter] = &word
		}
	} else if o.Annotations[object.AnnotationFenceAfter] != "" {
		annotations[object.AnnotationFenceAfter] = nil
	}
	c := corev1.NodeCondition{Type: object.ConditionKeptPods, Status: corev1.ConditionFalse, Reason: "AsInTheCluster", Message: "the site has the pods that the cluster has"}
	var parts []string
	for _, kept := range []struct {
		what string
		pods []string
	}{{"held", s.Held}, {"stand-ins", s.StandIns}, {"fenced", s.Fenced}} {
		if n := len(kept.pods); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", n, kept.what, strings.Join(kept.pods[:min(n, shownPods)], ", ")))
		}
	}
	if len(parts) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "OtherwiseThanTheCluster", strings.Join(parts, "; ")
	}
	before := ownnode.Condition(o, object.ConditionKeptPods)
	same := before.Status == c.Status && before.Message == c.Message || before.Type == "" && len(parts) == 0
	switch {
	case same && len(annotations) == 0:
		return nil
	case same:
		return e.own.Show(ctx, annotations)
	}
	return e.own.Show(ctx, annotations, c)
}
