package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func newDebug(w IO) *cobra.Command {
	diagnose := newGroup("diagnose", "Say what is wrong with a node now, and how to mend it: diagnose edge", newDiagnose(w))
	return newGroup("debug", "Find out what is wrong with a node, and gather what others need to help", newCheck(w), diagnose, newCollect(w))
}

// configFlag names the configuration of a machine that has joined.
func configFlag(c *cobra.Command, into *string) {
	c.Flags().StringVar(into, "config", defaultConfig, "edgecore's configuration file, as it was given to 'keadm join'")
}

func newDiagnose(w IO) *cobra.Command {
	var config, output string
	c := &cobra.Command{
		Use:     "edge",
		Aliases: []string{"node"},
		Short:   "Say what is wrong with this machine's node, and how to mend it",
		Long: "At an edge node, say in sentences what is wrong with it now and how to mend it: edgecore does not run, the link is down, the\n" +
			"node has not caught up with the cloud, the kubelet does not run, the certificate or the clock is wrong, the disk is full.\n" +
			"Nothing is changed. The exit code is 1 if anything is wrong. 'keadm check' looks at the machine beneath.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := joined(config)
			if err != nil {
				return err
			}
			if cfg == nil {
				return fmt.Errorf("this machine has not joined: expected edgecore's configuration in %s, found no such file; name another with --config, or join with 'keadm join'", config)
			}
			r, err := diagnose(c.Context(), w, cfg, config)
			if err != nil {
				return err
			}
			if err := show(w.Out, output, r, func(t io.Writer) { r.write(t, w.Now()) }); err != nil {
				return err
			}
			if len(r.errors()) > 0 {
				return errors.New("something is wrong with this node; 'keadm debug collect' gathers what others need to help")
			}
			return nil
		},
	}
	configFlag(c, &config)
	outputFlag(c, &output)
	return c
}

// diagnose looks at a node from the top: edgecore, what it says of itself, and what that rests on.
func diagnose(ctx context.Context, w IO, cfg *v1alpha1.EdgeCore, config string) (*machineReport, error) {
	r := newReport()
	r.Node = cfg.NodeName
	p, err := newPreflight(w, cfg, config)
	if err != nil {
		return nil, err
	}
	st, err := askStatus(ctx, cfg)
	if err != nil {
		s, serr := newService(serviceAuto, "edgecore", config, runDir(cfg.DataDir))
		if serr != nil {
			return nil, serr
		}
		r.silent(ctx, err, s, p)
	} else {
		r.Link, r.Kubelet, r.Sealing = &st.Link, &st.Kubelet, st.Sealing
		r.judge(st, w.Now())
	}
	r.judgeCertificate(cfg, w.Now())
	p.disk(r.add)
	p.cloud(ctx, r.add)
	if r.Link == nil || !r.Link.Connected {
		p.udp(ctx, r.add)
	}
	if r.Kubelet == nil || r.Kubelet.State != kubeletRunning {
		p.runtime(ctx, r.add)
	}
	return r, nil
}
