package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/tests/cluster"
)

// metricsServerVersion is the metrics-server of the cluster's Kubernetes.
const metricsServerVersion = "v0.9.0"

// metricsServerManifests are the rights and the API of metrics-server, as its project publishes them.
const metricsServerManifests = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: metrics-server, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:metrics-server"}
rules:
- {apiGroups: [""], resources: [nodes/metrics], verbs: [get]}
- {apiGroups: [""], resources: [pods, nodes], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:metrics-server"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:metrics-server"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "metrics-server:system:auth-delegator"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: metrics-server-auth-reader, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects: [{kind: ServiceAccount, name: metrics-server, namespace: kube-system}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {clusterIP: None, ports: [{name: https, port: 443, protocol: TCP}]}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec: {group: metrics.k8s.io, groupPriorityMinimum: 100, insecureSkipTLSVerify: true, service: {name: metrics-server, namespace: kube-system}, version: v1beta1, versionPriority: 100}
`

// metricsServerEndpoints is where the Service is. The port of the Service is found by its name.
const metricsServerEndpoints = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
endpoints: [{addresses: [%q], conditions: {ready: true}}]
ports: [{name: https, port: %s, protocol: TCP}]
`

// buildMetricsServer builds metrics-server from its own module, once for each version.
func (s *system) buildMetricsServer() string {
	s.t.Helper()
	dir := s.kept("metrics-server-" + metricsServerVersion)
	path := filepath.Join(dir, "metrics-server")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.CommandContext(s.t.Context(), "go", "install", "-ldflags=-s -w", "sigs.k8s.io/metrics-server/cmd/metrics-server@"+metricsServerVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("build metrics-server: %v: %s", err, out)
	}
	return path
}

// kubeconfigOf writes a kubeconfig of a service account of kube-system.
func (s *system) kubeconfigOf(account, path string) {
	s.t.Helper()
	token, err := s.Admin.CoreV1().ServiceAccounts("kube-system").CreateToken(s.t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	s.must(err)
	rest := s.REST()
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: rest.Host, CertificateAuthorityData: rest.CAData, CertificateAuthority: rest.CAFile}
	c.AuthInfos["a"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "a"}
	c.CurrentContext = "x"
	s.must(clientcmd.WriteToFile(*c, path))
}

// metricsServer runs metrics-server with its rights for as long as the test, with some flags each, and makes the first one that of the cluster.
func (s *system) metricsServer(flags ...string) {
	s.t.Helper()
	s.serveMetrics(s.startMetricsServers(flags)[0])
}

// startMetricsServers runs a metrics-server for each set of flags and returns where they listen, host:port.
func (s *system) startMetricsServers(flags ...[]string) (at []string) {
	s.t.Helper()
	program := s.buildMetricsServer()
	s.kubectlApply("kube-system", metricsServerManifests)
	dir := s.t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	s.kubeconfigOf("metrics-server", kubeconfig)
	host := hostOf(s.Server())
	ports, err := cluster.FreePorts(len(flags), host)
	s.must(err)
	for i, flags := range flags {
		p, err := s.Cluster.Start(cluster.ProcessConfig{Name: fmt.Sprintf("metrics-server-%d", i), Argv: append([]string{program, "--kubeconfig", kubeconfig,
			"--authentication-kubeconfig", kubeconfig, "--authorization-kubeconfig", kubeconfig, "--bind-address", host, fmt.Sprintf("--secure-port=%d", ports[i]),
			"--cert-dir", filepath.Join(dir, fmt.Sprint("certs-", i)), "--kubelet-use-node-status-port", "--metric-resolution=10s", "--kubelet-request-timeout=9s"}, flags...)})
		s.must(err)
		s.t.Cleanup(func() { s.must(p.Stop(20 * time.Second)) })
		at = append(at, net.JoinHostPort(host, fmt.Sprint(ports[i])))
	}
	return at
}

// serveMetrics makes the metrics-server at host:port that of the cluster.
func (s *system) serveMetrics(at string) {
	s.t.Helper()
	host, port, err := net.SplitHostPort(at)
	s.must(err)
	s.kubectlApply("kube-system", fmt.Sprintf(metricsServerEndpoints, host, port))
}

// TestMetricsServerShowsTheEdge: metrics-server, with the flags of its published manifests and with the other order of
// address types and TLS that is verified, shows pods and nodes of the edge as it does those of a stock kubelet.
func TestMetricsServerShowsTheEdge(t *testing.T) {
	s := sharedSystem(t)
	s.stock("stock-1")
	ca := s.Cluster.AuthorityFile() // the signer of every kubelet's certificate, and of the ports of edges
	servers := s.startMetricsServers(
		[]string{"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname", "--kubelet-insecure-tls"},
		[]string{"--kubelet-preferred-address-types=Hostname,InternalDNS,InternalIP", "--kubelet-certificate-authority=" + ca})
	s.subject("on-edge-1", "edge-1")
	s.subject("on-stock-1", "stock-1")
	for i, want := range [][]string{{"edge-1", "stock-1"}, {"edge-1"}} { // the stock kubelet's certificate is of no CA
		s.serveMetrics(servers[i])
		for _, node := range want {
			// One of them has nothing to show before its second look at a container.
			s.eventuallyTop(`(?m)^on-`+node+` +demo +[0-9]+m +[0-9]+Mi`, "pod", "on-"+node, "--containers")
			s.eventuallyTop(`(?m)^`+node+` +[0-9]+m +[0-9]+% +[0-9]+Mi +[0-9]+%`, "node", node)
		}
	}
	// What it scrapes says of both the same.
	var families [2]string
	for i, node := range []string{"edge-1", "stock-1"} {
		r := s.kubectl("", "get", "--raw", "/api/v1/nodes/"+node+"/proxy/metrics/resource")
		families[i] = strings.Join(regexp.MustCompile(`(?m)^# TYPE .*$`).FindAllString(r.out, -1), "\n")
	}
	if families[0] != families[1] || !strings.Contains(families[0], "pod_memory_working_set_bytes") {
		t.Errorf("/metrics/resource has\n%s\nat the edge, and of a stock kubelet\n%s", families[0], families[1])
	}
}

// eventuallyTop waits until kubectl top says something.
func (s *system) eventuallyTop(want string, args ...string) (r said) {
	s.t.Helper()
	cache := s.t.TempDir() // what kubectl keeps of the APIs that there are is of before
	cluster.Eventually(s.t, 90*time.Second, "kubectl top "+strings.Join(args, " "), func() error {
		r = s.kubectl("", append([]string{"--cache-dir", cache, "top"}, args...)...)
		if r.code != 0 || !regexp.MustCompile(want).MatchString(r.out) {
			return fmt.Errorf("exit code %d: %s%s; %w", r.code, r.out, r.err, s.apiServiceState())
		}
		return nil
	})
	return r
}

// apiServiceState says why the API server does not ask metrics-server.
func (s *system) apiServiceState() error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	b, err := s.Admin.Discovery().RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io/status").DoRaw(ctx)
	return errors.Join(err, fmt.Errorf("%.2000s", b))
}
