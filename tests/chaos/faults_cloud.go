package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

func cloudFaults() []Fault {
	const served = "The other CloudCore takes the node over; no write is lost or done twice."
	const patient = "The site runs on; nothing is deleted for want of an answer, and what waits goes through afterwards."
	seen := func(name, what string, t apiTrouble) Fault {
		return Fault{Name: name, Class: Cloud, What: what, Promise: patient, Least: 10 * time.Second, Most: 30 * time.Second,
			begin: func(f *fault) (func() error, error) {
				f.w.api.set(t)
				return func() error { f.w.api.set(apiTrouble{}); return nil }, nil
			}}
	}
	return []Fault{
		{Name: "cloud-killed", Class: Cloud, What: "The CloudCore that holds the node is killed.", Promise: served, Least: 2 * time.Second, Most: 20 * time.Second, begin: killCloud},
		{Name: "cloud-frozen", Class: Cloud, What: "The CloudCore that holds the node is stopped with SIGSTOP and woken after the other one took over.",
			Promise: served + " What the frozen one does when it wakes changes nothing.", Least: 20 * time.Second, Most: 40 * time.Second, begin: freezeCloud},
		{Name: "cloud-drained", Class: Cloud, What: "The CloudCore that holds the node ends in order (SIGTERM) and comes back.", Promise: served, Least: 5 * time.Second, Most: 15 * time.Second, begin: drainCloud},
		{Name: "cloud-cold", Class: Cloud, What: "Both CloudCores are killed and come back with cold caches while the API server is slow, and again while it keeps the lists of ConfigMaps, Secrets and devices back.",
			Promise: "Nothing is deleted on the edge before the caches are filled.", Least: 5 * time.Second, Most: 20 * time.Second, begin: coldCloud},
		seen("api-gone", "The API server answers no CloudCore.", apiTrouble{gone: true}),
		seen("api-slow", "The API server takes 2 s for each request.", apiTrouble{slow: 2 * time.Second}),
		seen("api-busy", "The API server answers CloudCore's requests with 429.", apiTrouble{busy: true}),
		seen("watches-expired", "All watches end, and new ones are answered with 410.", apiTrouble{expired: true}),
		{Name: "control-plane-killed", Class: Cloud, What: "etcd, API server, controllers and scheduler are killed and come back.", Promise: patient,
			Least: 2 * time.Second, Most: 15 * time.Second, begin: killControlPlane},
		{Name: "etcd-restored", Class: Cloud, What: "etcd is restored from a backup that is older than what the edge has.",
			Promise: "The edge follows the cluster as it is now, also where that is older.", Least: 10 * time.Second, Most: 20 * time.Second, Rewinds: true, Alone: true, begin: restoreEtcd},
	}
}

func killCloud(f *fault) (func() error, error) {
	c := f.w.holder(f.ctx)
	return c.Restart, c.Kill()
}

func freezeCloud(f *fault) (func() error, error) {
	c := f.w.holder(f.ctx)
	return func() error {
		taken := until(f.ctx, patience, "the other CloudCore to have taken the node over", func() error {
			s, err := f.w.status(f.ctx)
			if err == nil && (!s.Link.Synced || f.w.clouds[s.Link.Server] == c) {
				err = fmt.Errorf("the link is to %s, connected %v: %s", s.Link.Server, s.Link.Connected, s.Link.Problem)
			}
			return err
		})
		return errors.Join(taken, c.Signal(syscall.SIGCONT))
	}, c.Signal(syscall.SIGSTOP)
}

func drainCloud(f *fault) (func() error, error) {
	c := f.w.holder(f.ctx)
	return c.Restart, c.Stop(stopGrace)
}

// coldCloud has the CloudCores start twice: where all is slow to come, and where what pods are given and the devices come late.
func coldCloud(f *fault) (func() error, error) {
	start := func(t apiTrouble) error {
		var faults []error
		for _, c := range f.w.clouds {
			faults = append(faults, c.Kill())
		}
		f.w.api.set(t)
		for _, c := range f.w.clouds {
			faults = append(faults, c.Restart())
		}
		return errors.Join(faults...)
	}
	err := start(apiTrouble{slow: time.Second})
	if err == nil && f.wait(f.left()/2) {
		err = start(apiTrouble{withheld: 30 * time.Second})
	}
	return func() error { f.w.api.set(apiTrouble{}); return nil }, err
}

func killControlPlane(f *fault) (func() error, error) {
	return func() error {
		if err := f.w.Control.Restart(); err != nil {
			return err
		}
		return f.w.Control.WaitReady(f.ctx)
	}, f.w.Control.Kill()
}

// restoreEtcd takes a backup at once, lets the world go on, and puts it back.
func restoreEtcd(f *fault) (func() error, error) {
	dir := filepath.Join(filepath.Dir(f.w.Control.Kubeconfig), "etcd")
	backup := dir + ".backup"
	copied := func(from, to string) error {
		if err := os.RemoveAll(to); err != nil {
			return fmt.Errorf("restore etcd: %w", err)
		}
		if out, err := exec.CommandContext(f.ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
			return fmt.Errorf("restore etcd: %w: %s", err, out)
		}
		return nil
	}
	// Its files are whole only while it does not run.
	swap := func(from, to string) error {
		if err := f.w.Control.Stop(stopGrace); err != nil {
			return err
		}
		if err := copied(from, to); err != nil {
			return err
		}
		if err := f.w.Control.Restart(); err != nil {
			return err
		}
		return f.w.Control.WaitReady(f.ctx)
	}
	if err := swap(dir, backup); err != nil {
		return nil, err
	}
	return func() error {
		f.load.rewound()
		return swap(backup, dir)
	}, nil
}
