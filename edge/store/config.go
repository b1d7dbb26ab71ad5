package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// Config says where the store lives and how much it may take.
type Config struct {
	// Dir holds the database, its second copy and set-aside files. It is created if absent.
	Dir string
	// NodeName is the node whose Node object is never removed.
	NodeName string
	// EventQuota is the number of bytes that undelivered messages of one class may take, for classes other than state.
	EventQuota int64
	// FreeSpaceFloor is the free disk space, in bytes, below which messages other than state are refused.
	FreeSpaceFloor int64
	// CopyInterval is the least time between two refreshes of the second copy.
	CopyInterval time.Duration
	// WriteBudget is how many bytes may be written within an hour before somebody is told; 0 means any.
	WriteBudget int64
}

// A Clock tells the time.
type Clock interface {
	Now() time.Time
}

// Deps are what the store uses of its surroundings. Log is required; a nil Clock is the system's, a nil Registerer
// registers no metrics.
type Deps struct {
	Log        *slog.Logger
	Clock      Clock
	Registerer prometheus.Registerer
	// Seal opens the keys that Secrets and tokens are sealed with. It is called once, when the directory is this
	// process's alone and the room for a start on a full disk is given up. If nil, they are stored plain.
	Seal func(context.Context) (Sealer, error)
	// Withhold judges a pod that comes from the cloud and that the store has not, against those that the site keeps without
	// it (held, or made here): whether the kubelet is not to see it yet. It is called in the midst of a transaction, where
	// there are such pods: it must not block, and must not call the store. If nil, none is withheld.
	Withhold func(pod *corev1.Pod, kept []*corev1.Pod) bool
	// Overspent, if not nil, is told once an hour that more was written than WriteBudget. It must not block.
	Overspent func(Overspent)
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (c *Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("store: no directory given")
	case c.NodeName == "":
		return errors.New("store: no node name given")
	case c.EventQuota < 0 || c.FreeSpaceFloor < 0 || c.CopyInterval < 0 || c.WriteBudget < 0:
		return fmt.Errorf("store: event quota %d, free space floor %d, copy interval %s and write budget %d must not be negative",
			c.EventQuota, c.FreeSpaceFloor, c.CopyInterval, c.WriteBudget)
	}
	return nil
}
