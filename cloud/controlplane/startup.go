package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	probeEvery   = 50 * time.Millisecond
	probeTimeout = 5 * time.Second
	// kubeletAccess binds the API server's kubelet client to what it may do there, as a cluster's installer does.
	kubeletAccess = "tether:kube-apiserver-kubelet-client"
)

// stopGraces bound how long each component may take to stop. The API server first
// lets requests end; etcd closes its files.
var stopGraces = map[string]time.Duration{
	nameEtcd:              10 * time.Second,
	nameAPIServer:         20 * time.Second,
	nameControllerManager: 5 * time.Second,
	nameScheduler:         5 * time.Second,
}

// startAll starts each component and waits until it serves. It appends what
// runs to running even if it then fails.
func (cp *ControlPlane) startAll(ctx context.Context, running *[]*child) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cp.cfg.StartTimeout,
		fmt.Errorf("not ready within %v (--start-timeout)", cp.cfg.StartTimeout))
	defer cancel()

	etcd, err := httpsClient(cp.pki, etcdCA, certEtcdClient)
	if err != nil {
		return err
	}
	admin, err := httpsClient(cp.pki, clusterCA, certAdmin)
	if err != nil {
		return err
	}
	api, err := cp.adminClient()
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name  string
		ready func(context.Context) error
	}{
		{nameEtcd, healthy(etcd, cp.cfg.EtcdPort, "/health")},
		{nameAPIServer, all(healthy(admin, cp.cfg.SecurePort, "/readyz"), bindKubeletAccess(api))},
		{nameControllerManager, healthy(admin, cp.cfg.ControllerManagerPort, "/healthz")},
		{nameScheduler, healthy(admin, cp.cfg.SchedulerPort, "/healthz")},
		// Until the controller-manager made these, the API server refuses pods.
		{"", all(serviceAccountExists(api))},
	} {
		began := time.Now()
		if step.name != "" {
			c, err := cp.startComponent(step.name)
			if err != nil {
				return err
			}
			*running = append(*running, c)
		}
		if err := waitReady(ctx, step.ready, *running); err != nil {
			return err
		}
		name := step.name
		if name == "" {
			name = "the first service account"
		}
		cp.progress("%s ready in %s", name, since(began))
	}
	return nil
}

func (cp *ControlPlane) startComponent(name string) (*child, error) {
	output, err := openLogFile(cp.dir.join("logs", name+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c, err := startChild(child{
		name:       name,
		executable: cp.exe,
		args:       cp.componentFlags(name),
		lock:       cp.dir.lock,
		output:     output,
		log:        cp.deps.Log,
		stopGrace:  stopGraces[name],
	})
	if err != nil {
		output.close()
	}
	return c, err
}

// waitReady asks ready until it says nil, a component ends, or ctx is done.
func waitReady(ctx context.Context, ready func(context.Context) error, running []*child) error {
	newest := running[len(running)-1]
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		for _, c := range running {
			select {
			case <-c.firstExit:
				return fmt.Errorf("%s ended before it was ready (%w); the end of %s:\n%s", c.name, c.exitErr, c.output.path, c.output.lastLines(10))
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last answer: %w; its log is %s", newest.name, context.Cause(ctx), err, newest.output.path)
		case <-newest.firstExit:
		case <-time.After(probeEvery):
		}
	}
}

func all(probes ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, probe := range probes {
			if err := probe(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// healthy asks a component's own health endpoint.
func healthy(client *http.Client, port int, path string) func(context.Context) error {
	url := fmt.Sprintf("https://%s:%d%s", loopback, port, path)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
			return fmt.Errorf("%s answered %s: %s", path, resp.Status, body)
		}
		return nil
	}
}

func serviceAccountExists(api kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := api.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	}
}

func bindKubeletAccess(api kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: kubeletAccess},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: kubeletClientUser}},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kubelet-api-admin"},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
}

func (cp *ControlPlane) adminClient() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", cp.dir.join("admin.kubeconfig"))
	if err != nil {
		return nil, fmt.Errorf("admin client: %w", err)
	}
	config.Timeout = probeTimeout
	config.UserAgent = "tether-controlplane"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("admin client: %w", err)
	}
	return client, nil
}

// httpsClient trusts one of our authorities and shows one of our certificates.
func httpsClient(p *pki, ca, client string) (*http.Client, error) {
	body, err := os.ReadFile(p.cert(ca))
	if err != nil {
		return nil, fmt.Errorf("health client: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(body) {
		return nil, errors.New("health client: no certificate in " + p.cert(ca))
	}
	cert, err := tls.LoadX509KeyPair(p.cert(client), p.key(client))
	if err != nil {
		return nil, fmt.Errorf("health client: %w", err)
	}
	return &http.Client{
		Timeout: probeTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
			DisableKeepAlives: true, // nothing of ours stays open when the components stop
		},
	}, nil
}
