package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// renewEvery is how often the certificates are looked at while running. The
// components notice changed files by themselves.
const renewEvery = 12 * time.Hour

// Deps are what a control plane needs from its process.
type Deps struct {
	// Log receives what an operator should know after the start: restarts, renewals.
	Log *slog.Logger
	// Progress receives the lines for people: "etcd ready in 0.4s".
	Progress io.Writer
	// Executable is the program to re-execute; empty means this one. Its main
	// must hand over to [RunComponent].
	Executable string
	// Now is the clock by which certificates are judged; nil means time.Now.
	Now func() time.Time
}

// ControlPlane is one etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler. Start it once.
type ControlPlane struct {
	deps  Deps
	ready chan struct{}

	// Set by Start before anything runs, and constant from then on.
	cfg  Config // ports resolved, paths absolute
	dir  *dataDir
	pki  *pki
	exe  string
	from time.Time
}

// ReadyInfo is the content of Config.ReadyFile.
type ReadyInfo struct {
	// PID is the process that runs Start; SIGTERM to it stops everything.
	PID int `json:"pid"`
	// Server is the API server's URL on loopback.
	Server string `json:"server"`
	// Kubeconfig is the admin's, in the data directory.
	Kubeconfig string `json:"kubeconfig"`
	// Ports by flag name without dashes, such as "secure-port": 6443.
	Ports map[string]int `json:"ports"`
}

// New returns a control plane that is not started. The configuration is validated by Start.
func New(cfg Config, deps Deps) *ControlPlane {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	return &ControlPlane{cfg: cfg, deps: deps, ready: make(chan struct{})}
}

// Ready is closed once everything is up; see the package documentation.
func (cp *ControlPlane) Ready() <-chan struct{} { return cp.ready }

// Info describes the running control plane. Call it after Ready is closed.
func (cp *ControlPlane) Info() ReadyInfo {
	info := ReadyInfo{PID: os.Getpid(), Server: serverURL(&cp.cfg), Kubeconfig: cp.dir.join("admin.kubeconfig"), Ports: map[string]int{}}
	for _, p := range cp.cfg.ports() {
		info.Ports[p.flag[len("--"):]] = *p.port
	}
	return info
}

// Start runs the control plane until ctx is done, stops it in reverse order
// (etcd last), and returns nil. It returns an error if the configuration, the
// data directory or a port is not good, or if a component fails before
// everything was ready once; nothing is left running then either.
func (cp *ControlPlane) Start(ctx context.Context) error {
	cp.from = time.Now()
	if err := cp.cfg.Validate(); err != nil {
		return err
	}
	if err := cp.prepare(ctx); err != nil {
		return err
	}
	defer cp.dir.close()

	var running []*child
	defer func() { cp.stopAll(running) }()
	if err := cp.startAll(ctx, &running); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while starting
		}
		return err
	}
	if err := cp.announce(); err != nil {
		return err
	}
	cp.renewUntil(ctx)
	return nil
}

// prepare does everything that comes before the first process.
func (cp *ControlPlane) prepare(ctx context.Context) error {
	var err error
	if cp.exe = cp.deps.Executable; cp.exe == "" {
		if cp.exe, err = os.Executable(); err != nil {
			return fmt.Errorf("find own program: %w", err)
		}
	}
	for _, path := range []*string{&cp.cfg.KubeconfigOut, &cp.cfg.ReadyFile} {
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return fmt.Errorf("own directory: %w", err)
			}
		}
	}
	if cp.dir, err = openDataDir(ctx, cp.cfg.DataDir, cp.deps.Now()); err != nil {
		return err
	}
	for _, step := range []func() error{
		cp.removeReadyFile,
		func() error { return claimPorts(ctx, &cp.cfg) },
		cp.ensureCertificates,
	} {
		if err := step(); err != nil {
			cp.dir.close()
			return err
		}
	}
	return nil
}

func (cp *ControlPlane) ensureCertificates() error {
	cp.pki = &pki{dir: cp.dir.join("pki"), log: cp.deps.Log, now: cp.deps.Now}
	specs, err := certSpecs(&cp.cfg)
	if err != nil {
		return err
	}
	if err := cp.pki.ensure(specs); err != nil {
		return err
	}
	return writeKubeconfigs(cp.dir, cp.pki, &cp.cfg)
}

// renewUntil returns when ctx is done.
func (cp *ControlPlane) renewUntil(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := cp.ensureCertificates(); err != nil {
				cp.deps.Log.Error("renewing certificates failed, will try again", "error", err, "in", renewEvery)
			}
		}
	}
}

// announce gives the three signals of readiness, in the order that doc.go states.
func (cp *ControlPlane) announce() error {
	if cp.cfg.ReadyFile != "" {
		body, err := json.Marshal(cp.Info())
		if err != nil {
			return fmt.Errorf("encode ready file: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(cp.cfg.ReadyFile), 0o700); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
		if err := writeFile(cp.cfg.ReadyFile, append(body, '\n'), 0o600); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
	}
	close(cp.ready)
	path := cp.dir.join("admin.kubeconfig")
	if cp.cfg.KubeconfigOut != "" {
		path = cp.cfg.KubeconfigOut
	}
	cp.progress("controlplane ready in %s at %s; next: export KUBECONFIG=%s", since(cp.from), serverURL(&cp.cfg), path)
	return nil
}

func (cp *ControlPlane) removeReadyFile() error {
	if cp.cfg.ReadyFile == "" {
		return nil
	}
	if err := os.Remove(cp.cfg.ReadyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--ready-file: %w", err)
	}
	return nil
}

// stopAll stops the components in reverse order: each loses its clients before its servers.
func (cp *ControlPlane) stopAll(running []*child) {
	if err := cp.removeReadyFile(); err != nil {
		cp.deps.Log.Warn("removing the ready file failed", "error", err)
	}
	for i := len(running) - 1; i >= 0; i-- {
		began := time.Now()
		running[i].stop()
		running[i].output.close()
		cp.progress("%s stopped in %s", running[i].name, since(began))
	}
}

func (cp *ControlPlane) progress(format string, args ...any) {
	fmt.Fprintf(cp.deps.Progress, format+"\n", args...)
}

func since(t time.Time) string { return fmt.Sprintf("%.1fs", time.Since(t).Seconds()) }
