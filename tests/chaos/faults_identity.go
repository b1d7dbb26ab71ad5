package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

// copyName is the machine that has a copy of the edge's disk.
const copyName = "copy"

// shortLife is how long a certificate lives that is to end while the cable is out.
const shortLife = 10 * time.Second

func identityFaults() []Fault {
	return []Fault{
		{Name: "certificate-expired", Class: Object, What: "The node's certificate ends while the cable is out.", Promise: "The node renews it by itself when the cable is back, and goes on.",
			Least: 20 * time.Second, Most: 30 * time.Second, Alone: true, begin: expireCertificate},
		{Name: "cloned", Class: Edge, What: "A machine with a copy of the edge's disk runs beside it, with the same name, certificate and pods.",
			Promise: "One of the two is served at a time, and CloudCore says so; what either ran it reports once; once the copy is gone all is as it was, and nothing of the site was stopped.", Least: 30 * time.Second, Most: 45 * time.Second,
			Alone: true, Twice: true, begin: clone},
	}
}

// expireCertificate gives the node a certificate that is about to end, as if the cable had been out for as long as one lasts.
func expireCertificate(f *fault) (func() error, error) {
	cfg, err := f.w.edge.Settings()
	if err != nil {
		return nil, err
	}
	own, err := pki.ReadCertificates(cfg.Cloud.CertFile)
	if err != nil {
		return nil, err
	}
	var cert []byte
	err = until(f.ctx, patience, "a certificate", func() error {
		ca, err := trust.New(f.w.Admin, time.Now).CA(f.ctx)
		if err == nil {
			cert, err = ca.CA.SignNode(edgeName, own[0].PublicKey, shortLife, time.Now())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	better, err := f.w.cable.worsen(trouble{out: true})
	if err != nil {
		return nil, err
	}
	if err := pki.WriteFile(cfg.Cloud.CertFile, cert, 0o644); err != nil {
		return better, err
	}
	f.load.afterwards(func(context.Context) error {
		now, err := pki.ReadCertificates(cfg.Cloud.CertFile)
		if err == nil && time.Now().After(now[0].NotAfter) {
			err = fmt.Errorf("the link is up with a certificate that ended at %s", now[0].NotAfter)
		}
		return err
	})
	return better, nil
}

// clone copies what the edge has on its disk to another machine and starts it there.
func clone(f *fault) (func() error, error) {
	twin, err := f.w.copy(f.ctx)
	if err != nil {
		return nil, err
	}
	// What the copy reports of devices is what they were when it was made.
	f.load.meters.forgive()
	f.load.witness.blindfold(true)
	f.load.afterwards(func(context.Context) error { f.load.witness.blindfold(false); return nil })
	before := f.w.clones()
	if err := twin.StartCore(f.ctx); err != nil {
		return nil, errors.Join(err, twin.PowerCut())
	}
	return func() error {
		// They take turns where each has a CloudCore of its own, and may both be away for a moment.
		held := until(f.ctx, patience, "one of the two machines alone to have a session", func() error { return f.w.heldOnce(f.ctx) })
		said := until(f.ctx, patience, "CloudCore to say that there are two of them", func() error {
			if f.w.clones() == before {
				return errors.New("it says nothing of it")
			}
			return nil
		})
		return errors.Join(held, said, twin.Supervisor.Kill(), twin.PowerCut())
	}, nil
}

// copy makes the machine with a copy of the edge's disk, of a moment.
func (w *world) copy(ctx context.Context) (*stack.Edge, error) {
	h := w.cluster.Host(copyName)
	var err error
	if h == nil {
		var archives, e = cluster.Images(ctx)
		if e != nil {
			return nil, e
		}
		h, err = w.cluster.NewEdgeHost(ctx, cluster.EdgeConfig{Name: copyName, Images: archives})
	} else {
		err = h.Boot(ctx)
	}
	if err != nil {
		return nil, err
	}
	twin := w.Joined(h)
	from, to := filepath.Dir(w.edge.DataDir()), filepath.Dir(twin.DataDir())
	// A disk is copied whole, not while somebody writes to it.
	pid, err := w.edge.CorePID()
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(to); err != nil {
		return nil, fmt.Errorf("copy the edge's disk: %w", err)
	}
	script := fmt.Sprintf("kill -STOP %[1]d; cp -a %[2]s %[3]s; ended=$?; kill -CONT %[1]d; exit $ended", pid, from, to)
	if _, err := w.edge.Run(ctx, "/bin/sh", "-c", script); err != nil {
		return nil, err
	}
	file := filepath.Join(to, "edgecore.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("copy the edge's disk: %w", err)
	}
	moved := strings.NewReplacer(w.edge.Dir()+"/", h.Dir()+"/", w.edge.Cgroup(), h.Cgroup()).Replace(string(text))
	if err := os.WriteFile(file, []byte(moved), 0o600); err != nil {
		return nil, fmt.Errorf("copy the edge's disk: %w", err)
	}
	return twin, nil
}

// heldOnce returns nil when the CloudCores have one session of the node between them.
func (w *world) heldOnce(ctx context.Context) error {
	var sessions int64
	for _, c := range w.clouds {
		body, err := get(ctx, "http://"+c.metrics+"/metrics")
		if err != nil {
			return err
		}
		for _, protocol := range []string{"websocket", "quic"} {
			n, err := metric(body, `tether_hub_sessions{protocol="`+protocol+`"}`)
			if err != nil {
				return err
			}
			sessions += n
		}
	}
	if sessions != 1 {
		return fmt.Errorf("the CloudCores have %d sessions of %s", sessions, edgeName)
	}
	return nil
}

// clones counts the lines in which the CloudCores say that two machines use one name.
func (w *world) clones() (n int) {
	for _, c := range w.clouds {
		if log, err := os.ReadFile(c.LogPath()); err == nil {
			n += strings.Count(string(log), "a second edge uses this node's name") + strings.Count(string(log), "another CloudCore holds this node now")
		}
	}
	return n
}
