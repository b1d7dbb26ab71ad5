package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

func edgeFaults() []Fault {
	const comes = "edgecore starts by itself, no container is restarted, and what was accepted is not lost."
	const rebuilt = "The damaged database is set aside and rebuilt from its copy and the cloud; no container stops."
	return []Fault{
		{Name: "agent-killed", Class: Edge, What: "edgecore is killed, again and again, at random moments.", Promise: comes, Least: 5 * time.Second, Most: 25 * time.Second, Forgets: handful, begin: killAgent},
		{Name: "runtime-killed", Class: Edge, What: "containerd is killed and comes back later.", Promise: "No container stops, edgecore stays.", Least: 3 * time.Second, Most: 20 * time.Second, begin: killRuntime},
		{Name: "containers-killed", Class: Edge, What: "Every container is killed.", Promise: "Each is started again, with or without the cloud.", Least: time.Second, Most: 2 * time.Second, Restarts: true, begin: killContainers},
		{Name: "power-cut", Class: Edge, What: "The power fails: every process of the node ends at once, and what was not synced to its disk is lost.",
			Promise: "Everything runs again without anyone's help, also offline; what was acknowledged is not lost.", Least: time.Second, Most: 10 * time.Second, Restarts: true, Forgets: handful, begin: cutPower},
		{Name: "disk-full", Class: Edge, What: "The disk of the database is full.", Promise: "Pods and link go on; what must not be lost is kept or not accepted. Events are given up, counted.", Least: 10 * time.Second, Most: 30 * time.Second, Forgets: aDiskful, begin: fillDisk},
		{Name: "disk-failed", Class: Edge, What: "The disk of the database turns read-only, as after a fault of the device, until a restart.", Promise: "Containers run on; after the restart everything goes on.",
			Least: 5 * time.Second, Most: 20 * time.Second, Forgets: handful, begin: failDisk},
		{Name: "database-truncated", Class: Edge, What: "The database is cut to half its size while edgecore is down.", Promise: rebuilt, Least: time.Second, Most: 2 * time.Second, Forgets: handful, begin: damage(truncate, foundDamaged)},
		{Name: "database-flipped", Class: Edge, What: "Bits of the database are flipped while edgecore is down.", Promise: rebuilt, Least: time.Second, Most: 2 * time.Second, Forgets: handful, begin: damage(flip, nil)},
		{Name: "database-deleted", Class: Edge, What: "The database and its copy are deleted while edgecore is down.", Promise: rebuilt, Least: time.Second, Most: 2 * time.Second, Forgets: handful, begin: damage(remove, nil)},
		{Name: "mapper-killed", Class: Edge, What: "The mapper is killed and comes back.", Promise: "Its devices show that it is away, and get their desired values when it is back.", Least: 2 * time.Second, Most: 15 * time.Second, begin: killMapper},
	}
}

func killAgent(f *fault) (func() error, error) {
	ended := make(chan error, 1)
	go func() {
		ended <- f.repeat(0, func() error {
			f.wait(time.Duration(f.rand.IntN(6000)) * time.Millisecond)
			if err := f.w.killCore(); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may not be back yet
				return err
			}
			return nil
		})
	}()
	return func() error { return <-ended }, nil
}

func killRuntime(f *fault) (func() error, error) {
	return func() error { return f.w.edge.StartContainerd(f.ctx) }, f.w.edge.Containerd().Kill()
}

func killContainers(f *fault) (func() error, error) {
	cri, err := f.w.edge.CRI(f.ctx)
	if err != nil {
		return nil, err
	}
	defer cri.Close()
	all, err := cri.Containers(f.ctx)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, c := range all {
		if c.Running {
			faults = append(faults, cri.Runtime.StopContainer(f.ctx, c.ID, 0))
		}
	}
	return nothing, errors.Join(faults...)
}

func cutPower(f *fault) (func() error, error) {
	m := f.load.meters
	accepted := m.accepted()
	if err := f.w.disk.lose(); err != nil {
		return nil, err
	}
	m.hush(true)
	if err := f.w.edge.PowerCut(); err != nil {
		return nil, err
	}
	return func() error {
		defer m.hush(false)
		if err := f.w.boot(f.ctx); err != nil {
			return err
		}
		return until(f.ctx, patience, "the edge to have what it accepted before the power went", func() error { return m.has(f.ctx, accepted) })
	}, f.w.cable.unplug()
}

func fillDisk(f *fault) (func() error, error) {
	return f.w.disk.fill(int64(f.rand.IntN(3)) * 100 << 10)
}

func failDisk(f *fault) (func() error, error) {
	if err := f.w.disk.fail(f.ctx); err != nil {
		return nil, err
	}
	return func() error {
		return f.w.withoutAgent(func(ctx context.Context) error { return errors.Join(f.w.disk.unmount(ctx), f.w.disk.mount(ctx)) })
	}, nil
}

// withoutAgent kills edgecore, does something, and starts it again.
func (w *world) withoutAgent(do func(context.Context) error) error {
	ctx := context.Background()
	if err := errors.Join(w.edge.Supervisor.Kill(), w.killCore()); err != nil {
		return err
	}
	if err := until(ctx, stopGrace, "edgecore to be gone", func() error {
		pid, err := w.edge.CorePID()
		if err != nil {
			return err
		}
		if _, err := os.Stat(fmt.Sprint("/proc/", pid)); err == nil {
			return fmt.Errorf("its process %d is there", pid)
		}
		return nil
	}); err != nil {
		return err
	}
	return errors.Join(do(ctx), w.edge.StartCore(ctx))
}

// damage does something to the database while edgecore is down. What it found afterwards is looked at by noticed, if there is one: bits may
// flip where nothing is, and a database that is gone with its copy was never there.
func damage(how func(f *fault, database string) error, noticed func(f *fault) error) func(*fault) (func() error, error) {
	return func(f *fault) (func() error, error) {
		f.load.valve.forgive()
		end := nothing
		if noticed != nil {
			end = func() error { return noticed(f) }
		}
		return end, f.w.withoutAgent(func(context.Context) error {
			return f.w.disk.inside(func(dir string) error {
				if err := how(f, filepath.Join(dir, "tether.db")); err != nil {
					return fmt.Errorf("damage the database: %w", err)
				}
				return nil
			})
		})
	}
}

// foundDamaged waits until edgecore says that its database was damaged when it started.
func foundDamaged(f *fault) error {
	return f.shows("edgecore to have found its database damaged", "tether_store_damaged_total", 1)
}

// shows waits until a metric of the edge has a value.
func (f *fault) shows(what, name string, want int64) error {
	return until(f.ctx, patience, what, func() error {
		body, err := f.w.edge.Get(f.ctx, f.w.edge.Metrics()+"/metrics")
		if err != nil {
			return err
		}
		n, err := metric(body, name)
		if err == nil && n != want {
			err = fmt.Errorf("%s is %d, expected %d", name, n, want)
		}
		return err
	})
}

func truncate(_ *fault, database string) error {
	info, err := os.Stat(database)
	if err != nil {
		return err
	}
	return os.Truncate(database, info.Size()/2)
}

func flip(f *fault, database string) error {
	b, err := os.ReadFile(database)
	if err != nil {
		return err
	}
	for range 50 {
		b[f.rand.IntN(len(b))] ^= 1 << f.rand.IntN(8)
	}
	return os.WriteFile(database, b, 0o600)
}

func remove(_ *fault, database string) error {
	all, err := filepath.Glob(filepath.Join(filepath.Dir(database), "*.db*"))
	if err != nil || len(all) == 0 {
		return fmt.Errorf("expected the database, found %v: %w", all, err)
	}
	var faults []error
	for _, file := range all {
		faults = append(faults, os.RemoveAll(file))
	}
	return errors.Join(faults...)
}

func killMapper(f *fault) (func() error, error) {
	return f.w.mapper.Restart, f.w.mapper.Kill()
}
