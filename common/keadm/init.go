package keadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

// initFlags are what the user said.
type initFlags struct {
	kubeconfig string
	addresses  []string
	settings   []string
	local      bool
	service    string
	config     string
	image      imageFlags
	dryRun     bool
	keepOff    bool
	output     string
	token      trust.TokenRequest
}

func newInit(w IO) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init --advertise-address ADDRESS (--local | --image-repository REPOSITORY)",
		Short: "Set up CloudCore beside a cluster and print the line that joins a node",
		Long: "Give a cluster what CloudCore needs (kinds of devices, namespace, rights, edge CA), start CloudCore, and print the line\n" +
			"that joins a node. Run it again to change something: what is there stays, earlier --set and the edge CA above all.\n\n" +
			"CloudCore runs as a Deployment from REPOSITORY/cloudcore:TAG, or with --local as a service of this machine.",
		Example: "  keadm init --local --advertise-address cloud.example.org\n" +
			"  keadm init --image-repository registry.example/tether --advertise-address 192.0.2.1 --advertise-address 2001:db8::1\n" +
			"  keadm init --local --advertise-address cloud.example.org --set hub.webSocketPort=443 --dry-run",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(f.addresses) == 0 {
				return fmt.Errorf("%w: expected at least one --advertise-address: the DNS name or IP address that edges dial", errUsage)
			}
			if f.local == (f.image.repository != "") {
				return fmt.Errorf("%w: expected either --local or --image-repository: there is no default host for images", errUsage)
			}
			if f.dryRun && f.output == "json" {
				return fmt.Errorf("%w: --output: expected yaml with --dry-run, which prints manifests, found \"json\"", errUsage)
			}
			if err := tokenUsage("token-", f.token); err != nil {
				return err
			}
			progress, err := progressOf(w, f.output)
			if err != nil {
				return err
			}
			if f.dryRun {
				progress.Out = w.Out // the manifests are the result
			}
			done, err := initCloud(c.Context(), progress, &f)
			if err != nil || done == nil {
				return err
			}
			return showResult(w, f.output, done)
		},
	}
	fl := c.Flags()
	kubeconfigFlag(c, &f.kubeconfig)
	fl.StringSliceVar(&f.addresses, "advertise-address", nil, "DNS name or IP address by which edges reach CloudCore; repeat for more")
	fl.StringArrayVar(&f.settings, "set", nil, "KEY.PATH=VALUE of CloudCore's configuration ('cloudcore --print-defaults' shows it); repeat for more")
	fl.BoolVar(&f.local, "local", false, "run CloudCore as a service of this machine")
	fl.StringVar(&f.service, "service", serviceAuto, "with --local: systemd, process (kept running by 'keadm supervise'), none (only write the configuration), or auto")
	fl.StringVar(&f.config, "config", "/etc/tether/cloudcore.yaml", "with --local: where CloudCore's configuration is written")
	f.image.add(c)
	fl.BoolVar(&f.keepOff, "keep-off-edge", false, "keep the DaemonSets that would land on edge nodes off them, as 'keadm check --keep-off-edge' does")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print what would be applied and change nothing")
	outputFlag(c, &f.output)
	fl.StringVar(&f.token.Nodes, "token-node", "*", "name or pattern of the nodes that may use the printed token")
	fl.IntVar(&f.token.MaxUses, "token-uses", 1, "how many nodes may use the printed token; 0 for any number")
	fl.DurationVar(&f.token.Life, "token-ttl", 24*time.Hour, "how long the printed token is valid")
	choices(c, "service", services...)
	return c
}

// initialized is what init did, for programs.
type initialized struct {
	// CA is the SHA-256 of the edge CA, which every join token begins with.
	CA string `json:"ca"`
	// Config is where CloudCore's configuration is: a file of this machine, or a ConfigMap of the cluster.
	Config string `json:"config"`
	// Token is the one in Join, the line that joins a node.
	Token madeToken `json:"token"`
	Join  string    `json:"join"`
	// OnEdgeNodes are the DaemonSets that will put pods on edge nodes without being meant for them.
	OnEdgeNodes []string `json:"daemonSetsOnEdgeNodes"`
}

// oldest and constrained are versions of API servers: the oldest that is supported, and the first that can be told verb
// by verb what CloudCore may do as a node.
var oldest, constrained = utilversion.MustParseGeneric("1.31.0"), utilversion.MustParseGeneric("1.36.0")

// initCloud returns nothing for a dry run.
func initCloud(ctx context.Context, w IO, f *initFlags) (*initialized, error) {
	client, lost := connect(f.kubeconfig)
	if lost != nil && !f.local {
		return nil, lost
	}
	// A configuration on this machine is judged whether there is a cluster or not.
	before, err := f.before(ctx, client)
	if err != nil {
		return nil, err
	}
	cfg, file, err := cloudConfig(f, before)
	if err != nil {
		return nil, err
	}
	if lost != nil {
		return nil, lost
	}
	manifests, err := f.manifests(ctx, w, client, cfg, file)
	if err != nil {
		return nil, err
	}
	if f.dryRun {
		return nil, f.show(w, manifests, file)
	}
	objects, err := documents(manifests)
	if err != nil {
		return nil, err
	}
	if err := client.apply(ctx, objects); err != nil {
		return nil, err
	}
	fmt.Fprintf(w.Out, "applied  the kinds of devices, namespace %s, CloudCore's rights%s\n", build.Namespace, map[bool]string{false: " and its Deployment"}[f.local])
	if err := client.served(ctx, w); err != nil {
		return nil, err
	}
	if before != nil {
		fmt.Fprintf(w.Out, "kept     the settings in %s, but for what was said now\n", f.where())
	}
	store := trust.New(client, w.Now)
	a, fresh, err := store.EnsureCA(ctx)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(w.Out, "%s     the edge CA, SHA-256 %s\n", map[bool]string{true: "made", false: "kept"}[fresh], a.Pin())
	if f.local {
		if err := installCloud(ctx, w, client, f, cfg, file); err != nil {
			return nil, err
		}
	} else if err := client.deployed(ctx, w); err != nil {
		return nil, err
	}
	stray, err := client.strays(ctx, w, f.keepOff)
	if err != nil {
		return nil, err
	}
	token, made, err := makeToken(ctx, w, store, f.token)
	if err != nil {
		return nil, err
	}
	done := &initialized{a.Pin(), f.where(), made, joinLine(cfg, token), stray}
	if f.output != "" {
		return done, nil // a token is not for the log of what runs keadm
	}
	fmt.Fprintf(w.Out, "\nTo join a node, run there as root, within %s:\n\n  %s\n\n%s\n", f.token.Life, done.Join, tokenScope(f.token))
	return done, nil
}

// manifests are what the cluster is to hold. A cluster that is too old is refused.
func (f *initFlags) manifests(ctx context.Context, w IO, client *clusterClient, cfg *v1alpha1.CloudCore, file []byte) ([]byte, error) {
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("reach the cluster at %s: %w", client.rest.Host, err)
	}
	v, err := utilversion.ParseGeneric(info.GitVersion)
	if err != nil {
		return nil, fmt.Errorf("the cluster says its version is %q: %w", info.GitVersion, err)
	}
	if v.LessThan(oldest) {
		return nil, fmt.Errorf("the cluster is of Kubernetes %s: expected 1.31 or later", info.GitVersion)
	}
	manifests := [][]byte{build.CRDs(), build.RBAC(), build.DeviceRoles()}
	if v.LessThan(constrained) {
		manifests = append(manifests, build.LegacyImpersonation())
		fmt.Fprintf(w.Err, "keadm: this cluster (%s) cannot limit what CloudCore does as a node: it gets the right to impersonate any user, which is nearly cluster-admin. From 1.36 on it needs less.\n", info.GitVersion)
	} else {
		manifests = append(manifests, build.ConstrainedImpersonation())
	}
	if !f.local {
		deployment, err := f.deployment(ctx, w, client, cfg, file)
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, deployment)
	}
	return bytes.Join(manifests, []byte("\n---\n")), nil
}

// show prints what would be done: the manifests, and as a comment, since no cluster takes it, the file of this machine.
func (f *initFlags) show(w IO, manifests, file []byte) error {
	if f.local {
		manifests = fmt.Appendf(manifests, "\n---\n# %s on this machine:\n#\n", f.config)
		for line := range strings.Lines(string(file)) {
			manifests = append(manifests, "# "+line...)
		}
	}
	_, err := w.Out.Write(manifests)
	return err
}

func tokenScope(r trust.TokenRequest) string {
	uses := "one node"
	switch {
	case r.MaxUses == 0:
		uses = "any number of nodes"
	case r.MaxUses > 1:
		uses = fmt.Sprintf("%d nodes", r.MaxUses)
	}
	name := fmt.Sprintf("named %q", r.Nodes)
	if r.Nodes == "*" {
		name = "of any name"
	}
	return fmt.Sprintf("The token is for %s %s. 'keadm gettoken' makes more.", uses, name)
}

func joinLine(cfg *v1alpha1.CloudCore, token trust.Bearer) string {
	line := "keadm join"
	for _, a := range cfg.Hub.AdvertiseAddresses {
		line += " --cloudcore-ipport " + net.JoinHostPort(a, strconv.Itoa(cfg.Hub.WebSocketPort))
	}
	if cfg.Join.Port != defaultCertPort {
		line += fmt.Sprintf(" --certport %d", cfg.Join.Port)
	}
	return line + " --token " + token.String()
}

// cloudConfig makes CloudCore's configuration: that of before, or the defaults where there is none, with what the flags
// say put into it.
func cloudConfig(f *initFlags, before []byte) (*v1alpha1.CloudCore, []byte, error) {
	cfg := v1alpha1.DefaultCloudCore()
	if f.local {
		cfg.Kubeconfig = filepath.Join(filepath.Dir(f.config), "cloudcore.kubeconfig")
	}
	if before != nil {
		var err error
		if cfg, err = v1alpha1.DecodeCloudCore(before); err != nil {
			return nil, nil, fmt.Errorf("CloudCore's present configuration (%s): %w; mend it, or remove it to begin with the defaults", f.where(), err)
		}
	}
	cfg.Hub.AdvertiseAddresses = f.addresses
	b, err := v1alpha1.Marshal(cfg)
	if err != nil {
		return nil, nil, err
	}
	if b, err = withSettings(b, f.settings); err != nil {
		return nil, nil, err
	}
	if cfg, err = v1alpha1.DecodeCloudCore(b); err != nil {
		return nil, nil, fmt.Errorf("CloudCore's configuration: %w", err)
	}
	return cfg, b, nil
}

// Where CloudCore's configuration is in the cluster.
const configMap, configKey = "cloudcore", "cloudcore.yaml"

// where says where the configuration is.
func (f *initFlags) where() string {
	if f.local {
		return f.config
	}
	return "ConfigMap " + build.Namespace + "/" + configMap
}

// before reads the configuration that an earlier init wrote; nil if there is none.
func (f *initFlags) before(ctx context.Context, client *clusterClient) ([]byte, error) {
	if f.local {
		b, err := os.ReadFile(f.config)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return b, err
	}
	m, err := client.CoreV1().ConfigMaps(build.Namespace).Get(ctx, configMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CloudCore's present configuration (%s): %w", f.where(), err)
	}
	return []byte(m.Data[configKey]), nil
}

// installCloud makes CloudCore a service of this machine.
func installCloud(ctx context.Context, w IO, client *clusterClient, f *initFlags, cfg *v1alpha1.CloudCore, file []byte) error {
	kubeconfig, err := client.serviceAccountKubeconfig(ctx, w)
	if err != nil {
		return err
	}
	if err := pki.WriteFile(cfg.Kubeconfig, kubeconfig, 0o600); err != nil {
		return err
	}
	if err := pki.WriteFile(f.config, file, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "wrote    %s and %s\n", f.config, cfg.Kubeconfig)
	s, err := newService(f.service, "cloudcore", f.config, filepath.Join(filepath.Dir(f.config), "run"))
	if err != nil {
		return err
	}
	if err := s.install(ctx, w); err != nil {
		return err
	}
	if s.kind == serviceNone {
		return nil
	}
	return s.waitReady(ctx, w, cfg, time.Minute)
}

// errEnded: what was started has ended. It is started again, to the same end.
var errEnded = errors.New("expected it to go on running, found that its process ended")

// waitReady waits until CloudCore is, and no longer than it runs. What keeps it from that, its log says.
func (s *service) waitReady(ctx context.Context, w IO, cfg *v1alpha1.CloudCore, limit time.Duration) error {
	every := often
	if s.kind == serviceSystemd {
		every = seldom // each look at its process is a program
	}
	running := 0
	err := waitFor(ctx, w, limit, every, "CloudCore to be ready", func(ctx context.Context) answer {
		// A look that failed is no end: the next one tells.
		if pid, err := s.pid(ctx); err == nil {
			if running != 0 && pid != running {
				return answer{failed: errEnded}
			}
			running = pid
		}
		if _, err := fetch(ctx, "http://"+cfg.Metrics.BindAddress+"/readyz", maxStatus); err != nil {
			return answer{missing: err.Error()}
		}
		return answer{ok: true}
	})
	if err != nil {
		return fmt.Errorf("%w\nCloudCore is started again and again%s\nmend what it says, and run 'keadm init' again; --set changes its configuration, such as a port", err, s.end(ctx))
	}
	return nil
}

// accountSecret holds a token of CloudCore's service account that lasts until it is deleted.
const accountSecret = "cloudcore-token"

// serviceAccountKubeconfig makes a kubeconfig with exactly CloudCore's rights.
func (c *clusterClient) serviceAccountKubeconfig(ctx context.Context, w IO) ([]byte, error) {
	secrets := c.CoreV1().Secrets(build.Namespace)
	_, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: accountSecret, Annotations: map[string]string{corev1.ServiceAccountNameKey: build.ServiceAccount}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make CloudCore's credentials: %w", err)
	}
	var token []byte
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		x, err := secrets.Get(ctx, accountSecret, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		token = x.Data[corev1.ServiceAccountTokenKey]
		return len(token) > 0, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		token, err = c.askedToken(ctx, w)
	}
	if err != nil {
		return nil, fmt.Errorf("make CloudCore's credentials: %w", err)
	}
	ca := c.rest.CAData
	if len(ca) == 0 && c.rest.CAFile != "" {
		if ca, err = os.ReadFile(c.rest.CAFile); err != nil {
			return nil, fmt.Errorf("read the cluster's CA: %w", err)
		}
	}
	k := clientcmdapi.NewConfig()
	k.Clusters["cluster"] = &clientcmdapi.Cluster{Server: c.rest.Host, CertificateAuthorityData: ca, TLSServerName: c.rest.ServerName}
	k.AuthInfos["cloudcore"] = &clientcmdapi.AuthInfo{Token: string(token)}
	k.Contexts["cloudcore"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "cloudcore"}
	k.CurrentContext = "cloudcore"
	b, err := clientcmd.Write(*k)
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return b, nil
}

// askedToken asks for a token that ends, of a cluster whose controllers fill in none that does not.
func (c *clusterClient) askedToken(ctx context.Context, w IO) ([]byte, error) {
	const decade = 10 * 365 * 24 * 60 * 60 // seconds
	r, err := c.CoreV1().ServiceAccounts(build.Namespace).CreateToken(ctx, build.ServiceAccount, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(decade))}}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return nil, fmt.Errorf("the cluster filled in no token into Secret %s/%s, and gives none when asked: %w", build.Namespace, accountSecret, err)
	}
	fmt.Fprintf(w.Err, "keadm: the cluster filled in no token into Secret %s/%s (does its controller manager run?): CloudCore's token ends on %s; run 'keadm init' again before\n",
		build.Namespace, accountSecret, r.Status.ExpirationTimestamp.Format(time.DateOnly))
	return []byte(r.Status.Token), nil
}

// deployed waits for the Deployment.
func (c *clusterClient) deployed(ctx context.Context, w IO) error {
	return waitFor(ctx, w, 3*time.Minute, often, "CloudCore's Deployment to be available", func(ctx context.Context) answer {
		d, err := c.AppsV1().Deployments(build.Namespace).Get(ctx, "cloudcore", metav1.GetOptions{})
		if err != nil {
			return answer{missing: err.Error()}
		}
		if d.Status.ObservedGeneration >= d.Generation && d.Status.AvailableReplicas > 0 && d.Status.UpdatedReplicas == d.Status.Replicas {
			return answer{ok: true}
		}
		return answer{missing: c.whyNot(ctx)}
	})
}

// whyNot says what keeps CloudCore's pods from running.
func (c *clusterClient) whyNot(ctx context.Context) string {
	pods, err := c.CoreV1().Pods(build.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=cloudcore"})
	if err != nil {
		return err.Error()
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Waiting != nil {
				return fmt.Sprintf("pod %s: %s: %s%s", p.Name, s.State.Waiting.Reason, s.State.Waiting.Message, c.lastWords(ctx, p.Name, &s))
			}
		}
		for _, cond := range p.Status.Conditions {
			if cond.Status == corev1.ConditionFalse && cond.Message != "" {
				return fmt.Sprintf("pod %s: %s", p.Name, cond.Message)
			}
		}
	}
	return fmt.Sprintf("%d pods, none available", len(pods.Items))
}

// lastWords are what a container that has ended said last; empty if it has not ended, or nothing tells.
func (c *clusterClient) lastWords(ctx context.Context, pod string, s *corev1.ContainerStatus) string {
	if s.LastTerminationState.Terminated == nil {
		return ""
	}
	b, err := c.CoreV1().Pods(build.Namespace).GetLogs(pod, &corev1.PodLogOptions{Container: s.Name, Previous: true, TailLines: new(int64(1))}).DoRaw(ctx)
	if text := strings.TrimSpace(string(b)); err == nil && text != "" {
		return "; its last words were: " + redactor{}.text(text)
	}
	return ""
}
