package keadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/build"
)

func newResetCloud(w IO) *cobra.Command {
	var kubeconfig, service, config, output string
	var force, crds bool
	c := &cobra.Command{
		Use:   "cloud",
		Short: "Remove CloudCore and what init made, the edge CA included",
		Long: "Remove CloudCore, its rights, the edge CA, join tokens and identities. Edges go on with what they have; none of them can\n" +
			"connect again before it has joined again.\n\n" +
			"DeviceModels, Devices and DeviceStatuses are yours and stay, and so do the definitions of these kinds, without which the cluster\n" +
			"would delete them. With --crds both go, in every namespace.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			progress, err := progressOf(w, output)
			if err != nil {
				return err
			}
			what := "Remove CloudCore and the edge CA? Every edge will have to join again."
			if crds {
				what = "Remove CloudCore, the edge CA, and every DeviceModel, Device and DeviceStatus of the cluster? Every edge will have to join again."
			}
			if err := confirmed(w, force, what); err != nil {
				return err
			}
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			s, err := newService(service, "cloudcore", config, filepath.Join(filepath.Dir(config), "run"))
			if err != nil {
				return err
			}
			stopped, err := resetCloud(c.Context(), progress, client, s)
			if err != nil {
				return err
			}
			definitions := client.leaveDefinitions
			if crds {
				definitions = client.removeDefinitions
			}
			if err := definitions(c.Context(), progress); err != nil {
				return err
			}
			return showResult(w, output, cloudResetResult{stopped, build.Namespace})
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	c.Flags().StringVar(&service, "service", serviceAuto, "how CloudCore was started, where it runs on this machine: see init")
	c.Flags().StringVar(&config, "config", "/etc/tether/cloudcore.yaml", "CloudCore's configuration file, where it runs on this machine")
	c.Flags().BoolVar(&crds, "crds", false, "remove the kinds of devices too, and with them every DeviceModel, Device and DeviceStatus of the cluster")
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	choices(c, "service", services...)
	return c
}

// cloudResetResult is what a reset did, for programs.
type cloudResetResult struct {
	// Stopped is whether CloudCore ran on this machine.
	Stopped bool `json:"stopped"`
	// Namespace is the one that was removed.
	Namespace string `json:"namespace"`
}

// resetCloud reports whether CloudCore ran on this machine.
func resetCloud(ctx context.Context, w IO, client *clusterClient, s *service) (ran bool, err error) {
	ran, err = s.remove(ctx)
	if err != nil {
		return ran, err
	}
	if ran {
		fmt.Fprintln(w.Out, "stopped  CloudCore on this machine")
	}
	for _, p := range []string{s.config, filepath.Join(filepath.Dir(s.config), "cloudcore.kubeconfig")} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ran, err
		}
	}
	removeEmpty(filepath.Dir(s.config))
	r, err := client.resources()
	if err != nil {
		return ran, err
	}
	for _, manifests := range [][]byte{build.ConstrainedImpersonation(), build.LegacyImpersonation(), build.DeviceRoles(), build.RBAC()} {
		objects, err := documents(manifests)
		if err != nil {
			return ran, err
		}
		slices.Reverse(objects) // the namespace last
		for _, obj := range objects {
			c, err := r.of(obj)
			if err != nil {
				return ran, err
			}
			if err := c.Delete(ctx, obj.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return ran, fmt.Errorf("delete %s %s: %w", obj.GetKind(), obj.GetName(), err)
			}
		}
	}
	return ran, waitFor(ctx, w, 2*time.Minute, often, "the namespace to be gone", func(ctx context.Context) answer {
		_, err := client.CoreV1().Namespaces().Get(ctx, build.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return answer{ok: true}
		}
		return answer{missing: "it is still there"}
	})
}
