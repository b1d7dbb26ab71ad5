package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (c *Config) validate() error {
	switch {
	case c.Dir == "":
		return errors.New("store: no directory given")
	case c.NodeName == "":
		return errors.New("store: no node name given")
	case c.EventQuota < 0 || c.FreeSpaceFloor < 0 || c.CopyInterval < 0:
		return fmt.Errorf("store: event quota %d, free space floor %d and copy interval %s must not be negative",
			c.EventQuota, c.FreeSpaceFloor, c.CopyInterval)
	}
	return nil
}
