package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func newCheck(w IO) *cobra.Command {
	var f joinFlags
	var kubeconfig, output string
	var keepOff, cluster, force bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Look for what would hurt: at this machine, or with --cluster at the cluster",
		Long: "Look at this machine as join does with the same flags, and change nothing; with --cloudcore-ipport also at the way to\n" +
			"CloudCore. The exit code is 1 if a node could not work here.\n\n" +
			"On a machine that has joined, its configuration counts instead of the flags, and the link is shown: since when it is up, by\n" +
			"which protocol (websocket or quic) and to which server, or why it is down, and what seals the Secrets on its disk.\n\n" +
			"With --cluster, list the DaemonSets of the cluster that put pods on edge nodes; --keep-off-edge asks, and patches\n" +
			"them with an affinity that keeps them off. Those that ask for edge nodes are meant for them and left alone.",
		Example: "  keadm check --cloudcore-ipport cloud.example.org:10000   # before a join\n" +
			"  keadm check                                              # at a node\n" +
			"  keadm check --cluster                                    # beside the cluster",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if cluster || keepOff {
				client, err := connect(kubeconfig)
				if err != nil {
					return err
				}
				return checkCluster(c.Context(), w, client, output, keepOff, force)
			}
			return checkMachine(c.Context(), w, &f, output)
		},
	}
	f.machineFlags(c)
	outputFlag(c, &output)
	c.Flags().BoolVar(&cluster, "cluster", false, "look at the cluster instead of this machine")
	c.Flags().BoolVar(&keepOff, "keep-off-edge", false, "look at the cluster, and keep the DaemonSets that would land on edge nodes off them")
	c.Flags().BoolVar(&force, "force", false, "with --keep-off-edge: ask nothing")
	kubeconfigFlag(c, &kubeconfig)
	return c
}

func checkMachine(ctx context.Context, w IO, f *joinFlags, output string) error {
	cfg, err := joined(f.config)
	if err != nil {
		return err
	}
	r := newReport()
	failed := "this machine is not ready to join"
	if cfg == nil {
		if cfg, err = f.wouldBe(); err != nil {
			return err
		}
	} else {
		r.Node = cfg.NodeName
		failed = "something is wrong with this node; 'keadm debug diagnose edge' may say more"
	}
	p, err := newPreflight(w, cfg, f.config)
	if err != nil {
		return err
	}
	if r.Node != "" {
		st, err := askStatus(ctx, cfg)
		if err == nil {
			r.Link, r.Sealing, p.held = &st.Link, st.Sealing, listeners(cfg)
			r.judgeSealing(st)
		} else {
			r.add(true, "edgecore", fmt.Sprintf("edgecore does not answer: %v", err), "'keadm debug diagnose edge' says more")
		}
	}
	r.Findings = append(r.Findings, p.run(ctx)...)
	if err := show(w.Out, output, r, func(t io.Writer) { r.write(t, w.Now()) }); err != nil {
		return err
	}
	if names := r.errors(); len(names) > 0 {
		return fmt.Errorf("%s: %s", failed, strings.Join(names, ", "))
	}
	return nil
}

// joined reads the configuration of a machine that has joined; nil if it has not.
func joined(path string) (*v1alpha1.EdgeCore, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	cfg, err := v1alpha1.LoadEdgeCore(path)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; run keadm as root", err)
	}
	return cfg, err
}
