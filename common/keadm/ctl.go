package keadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func newCtl(w IO) *cobra.Command {
	c := newGroup("ctl", "See and mend this node and its pods, with or without the cloud",
		newCtlStatus(w), newCtlGet(w), newCtlDescribe(w), newCtlLogs(w), newCtlExec(w), newCtlRestart(w), newCtlTop(w), newCtlDrill(w))
	c.Long = "At an edge node, as root, see and mend the node and its pods. All is asked of this machine alone, so it works the same while\n" +
		"the cloud is away. Stock kubectl works here too, with the kubeconfig admin.kubeconfig in edgecore's data directory.\n" +
		"What belongs to the cluster is changed in the cluster: here it can be read."
	c.Example = "  keadm ctl status\n" +
		"  keadm ctl get pods -A\n" +
		"  keadm ctl logs -f web-0\n" +
		"  keadm ctl exec -it web-0 -- sh\n" +
		"  keadm ctl restart web-0"
	return c
}

// ctlFlags say whose node is meant, and which namespace.
type ctlFlags struct {
	config, namespace string
	all               bool
}

// here adds the flag that names the node.
func (f *ctlFlags) here(c *cobra.Command) { configFlag(c, &f.config) }

// in adds the namespace, too.
func (f *ctlFlags) in(c *cobra.Command) {
	f.here(c)
	c.Flags().StringVarP(&f.namespace, "namespace", "n", "default", "the namespace")
}

// inAny adds a namespace or all of them.
func (f *ctlFlags) inAny(c *cobra.Command) {
	f.in(c)
	c.Flags().BoolVarP(&f.all, "all-namespaces", "A", false, "in all namespaces")
}

// spaces is the namespace, empty for all.
func (f *ctlFlags) spaces() string {
	if f.all {
		return ""
	}
	return f.namespace
}

// none says that there is nothing to show. wide: of the whole cluster's kinds.
func (f *ctlFlags) none(w IO, wide bool) {
	if f.all || wide {
		fmt.Fprintln(w.Err, "No resources found")
		return
	}
	fmt.Fprintf(w.Err, "No resources found in %s namespace.\n", f.namespace)
}

// A gateway is this machine's node, as its own API shows it.
type gateway struct {
	cfg    *v1alpha1.EdgeCore
	rest   *rest.Config
	client kubernetes.Interface
}

// node reads the configuration of this machine, which must have joined.
func (f *ctlFlags) node() (*v1alpha1.EdgeCore, error) {
	cfg, err := joined(f.config)
	if err == nil && cfg == nil {
		err = fmt.Errorf("this machine has not joined: expected edgecore's configuration in %s, found no such file; name another with --config", f.config)
	}
	return cfg, err
}

// localKubeconfig is what edgecore writes for people at the node.
func localKubeconfig(dataDir string) string { return filepath.Join(dataDir, "admin.kubeconfig") }

// localConfig is how the node's own API is reached.
func localConfig(dataDir string) (*rest.Config, error) {
	file := localKubeconfig(dataDir)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("expected edgecore's %s, found none: it never ran here", file)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("read %s: %w; run keadm as root", file, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	config.QPS = -1
	return config, nil
}

// open returns a client of the local API.
func (f *ctlFlags) open() (*gateway, error) {
	cfg, err := f.node()
	if err != nil {
		return nil, err
	}
	g := &gateway{cfg: cfg}
	if g.rest, err = localConfig(cfg.DataDir); err != nil {
		return nil, err
	}
	g.client, err = kubernetes.NewForConfig(g.rest)
	return g, err
}

// An apiSaid is what the node's API answered instead. It is told in kubectl's words, without the name of this program.
type apiSaid []error

func (r apiSaid) Error() string {
	var lines []string
	for _, err := range r {
		reason := apierrors.ReasonForError(err)
		if reason == metav1.StatusReasonUnknown {
			lines = append(lines, fmt.Sprintf("Error from server: %v", err))
			continue
		}
		lines = append(lines, fmt.Sprintf("Error from server (%s): %v", reason, err))
	}
	return strings.Join(lines, "\n")
}

// explain says what to do about an edgecore that does not answer. What its API said is left as it is.
func (g *gateway) explain(err error) error {
	var status apierrors.APIStatus
	var network *net.OpError
	if err == nil || errors.As(err, &status) || !errors.As(err, &network) {
		return err
	}
	return fmt.Errorf("edgecore does not answer at %s: %w; 'keadm debug diagnose edge' says why", g.cfg.API.BindAddress, err)
}

// podName reads POD or pod/POD.
func podName(arg string) (string, error) {
	kind, name, ok := strings.Cut(arg, "/")
	if !ok {
		return arg, nil
	}
	switch kind {
	case "pod", "pods", "po":
		return name, nil
	}
	return "", fmt.Errorf("%w: expected the name of a pod, found %q", errUsage, arg)
}

// on runs a command with this machine's node.
func (f *ctlFlags) on(run func(ctx context.Context, g *gateway, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		g, err := f.open()
		if err != nil {
			return err
		}
		var status apierrors.APIStatus
		if err = g.explain(run(c.Context(), g, args)); errors.As(err, &status) {
			return apiSaid{err}
		}
		return err
	}
}
