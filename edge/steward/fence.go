package steward

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Boot tells times that hold across restarts of the process, and no longer than the machine is up.
type Boot struct {
	// ID is another one after each boot.
	ID string
	// Uptime is the time since then, suspended time included. It never goes back.
	Uptime func() time.Duration
}

// A fence knows whether the node has been cut off for too long. The cloud counts the same time from the last renewal of the node's
// Lease on, so this one never lasts longer: it begins no later than what was last heard, and where that is not known, as after a boot
// without a link, it is on at once.
type fence struct {
	after time.Duration
	boot  Boot
	// heard is the uptime when the cloud was last heard, known if it is.
	heard time.Duration
	known bool
	noted time.Duration // the heard that is on the disk
	// checked is the heard at which it was last judged whether to note it, was what on last said.
	checked time.Duration
	was     bool
	// down: what on said last.
	down bool
	// ends is the uptime at which on will say so if the cloud is not heard, fenced once it has, 0 before it was asked. For other goroutines.
	ends atomic.Int64
}

const fenced = -1

func newFence(after time.Duration, boot Boot) *fence { return &fence{after: after, boot: boot} }

// heardNote is what is on the disk.
type heardNote struct {
	Boot   string        `json:"boot"`
	Uptime time.Duration `json:"uptime"`
}

const heardKey = "heard"

// recall takes what a former process has noted.
func (f *fence) recall(value []byte) {
	var n heardNote
	if json.Unmarshal(value, &n) == nil && n.Boot == f.boot.ID && n.Uptime <= f.boot.Uptime() {
		f.heard, f.noted, f.known = n.Uptime, n.Uptime, true
	}
}

// on reports whether pods that are to be fenced must not run. Once they must not, they stay so until all that the cloud has is here: it may
// have deleted them meanwhile.
func (f *fence) on(connected, synced bool) bool {
	if f.after == 0 {
		return false
	}
	if f.down = f.down && !synced || !f.known && !synced; !f.down && connected {
		f.heard, f.known = f.boot.Uptime(), true
	}
	f.down = f.down || f.boot.Uptime()-f.heard >= f.after
	if f.ends.Store(int64(f.heard + f.after)); f.down {
		f.ends.Store(fenced)
	}
	return f.down
}

// FenceIn is for how long pods that are to be fenced run yet if the cloud is not heard; ok is false where nothing fences them. It may be
// called from any goroutine.
func (s *Steward) FenceIn() (left time.Duration, ok bool) {
	f := s.fence
	switch ends := f.ends.Load(); {
	case f.after == 0:
		return 0, false
	case ends == fenced:
		return 0, true
	case ends == 0:
		return f.after, true
	default:
		return max(0, time.Duration(ends)-f.boot.Uptime()), true
	}
}

// beat reports whether there is something to judge anew.
func (f *fence) beat(connected, synced bool) bool {
	is := f.on(connected, synced)
	changed := is != f.was
	f.was = is
	return changed || connected && f.after > 0 && f.heard-f.checked >= f.after/notes
}

// notes is how often within fenceAfter it is noted that the cloud was heard. A process that is killed and started again without a
// link fences by that part of it too early.
const notes = 10

// heard notes that the cloud is heard, where a pod's fence depends on it.
func (s *Steward) heard(ctx context.Context, p picture) error {
	f := s.fence
	f.checked = f.heard
	if f.after == 0 || !f.known || f.noted > 0 && f.heard-f.noted < f.after/notes ||
		!slices.ContainsFunc(p.pods, func(pod seen) bool { return pod.Annotations[Fence] == "true" }) {
		return nil
	}
	value, err := json.Marshal(heardNote{f.boot.ID, f.heard})
	if err != nil {
		return err
	}
	if err := s.deps.Store.Keep(ctx, heardKey, value); err != nil {
		return fmt.Errorf("note that the cloud was heard: %w", err)
	}
	f.noted = f.heard
	return nil
}

// load reads what a former process has noted.
func (s *Steward) load(ctx context.Context) error {
	return s.deps.Store.Notes(ctx, func(key string, value []byte) error {
		if key == heardKey {
			s.fence.recall(value)
		} else if uid, ok := strings.CutPrefix(key, dismissedPrefix); ok {
			s.judge.dismissed[types.UID(uid)] = true
		}
		return nil
	})
}
