package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// listeners are the TCP addresses that a process listens on. With all they are those of every process in its network.
func listeners(t *testing.T, pid int, all bool) []netip.AddrPort {
	t.Helper()
	own := map[string]bool{}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if target, err := os.Readlink(f); err == nil { // else it was closed
			own[target] = true
		}
	}
	var out []netip.AddrPort
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			field := strings.Fields(lines.Text())
			if len(field) < 10 || field[3] != "0A" || !all && !own["socket:["+field[9]+"]"] { // 0A is LISTEN
				continue
			}
			out = append(out, addrPort(t, field[1]))
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// addrPort reads an address of /proc/net/tcp: groups of four bytes, each the wrong way round here.
func addrPort(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	if err != nil {
		t.Fatal(err)
	}
	for group := range slices.Chunk(b, 4) {
		slices.Reverse(group)
	}
	ip, _ := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n))
}

// TestAScanOfCloudCoreFindsNothingToUse: every port that CloudCore listens on, asked by a stranger, by an edge node, by
// another node of the cluster and by a user without rights.
func TestAScanOfCloudCoreFindsNothingToUse(t *testing.T) {
	s := sharedSystem(t)
	s.stock("stock-1")
	edge, err := tls.LoadX509KeyPair(filepath.Join(s.edge.Dir(), "tether", "pki", "node.crt"), filepath.Join(s.edge.Dir(), "tether", "pki", "node.key"))
	s.must(err)
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.Cluster.Host("stock-1").Dir(), "kubelet", "kubeconfig"))
	s.must(err)
	stock, err := tls.X509KeyPair(config.CertData, config.KeyData)
	s.must(err)
	n, err := s.Admin.CoreV1().Nodes().Get(t.Context(), "edge-1", metav1.GetOptions{})
	s.must(err)
	kubelet := uint16(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	_, discovery, err := net.SplitHostPort(s.Discovery())
	s.must(err)
	nobody := s.user("nobody")
	paths := []string{"/", "/pods", "/runningpods/", "/metrics", "/metrics/cadvisor", "/stats/summary", "/logs/", "/configz", "/healthz", "/containerLogs/default/a/b",
		"/exec/default/a/b?command=id&output=1", "/run/default/a/b?cmd=id", "/attach/default/a/b", "/portForward/default/a", "/checkpoint/default/a/b", "/debug/pprof/", "/debug/flags/v",
		"/discovery/kubelets", "/tether/v1/join", "/status", "/api/v1/pods"}
	seen := map[uint16]bool{}
	for _, at := range listeners(t, s.Cloud.PID(), false) {
		if at.Addr().IsLoopback() {
			continue // the machine's own
		}
		seen[at.Port()] = true
		for _, who := range []struct {
			name  string
			cert  *tls.Certificate
			token string
		}{{"a stranger", nil, ""}, {"an edge node", &edge, ""}, {"a node of the cluster", &stock, ""}, {"a user without rights", nil, nobody}} {
			for _, path := range paths {
				code, body, err := askAs("https://"+at.String()+path, who.cert, who.token)
				switch {
				case at.Port() == kubelet, strconv.Itoa(int(at.Port())) == discovery:
					want := []int{http.StatusUnauthorized}
					if who.cert == &stock || who.token != "" {
						want = []int{http.StatusForbidden}
					}
					if strconv.Itoa(int(at.Port())) == discovery {
						if path == "/healthz" {
							want = []int{http.StatusOK} // for load balancers
						} else if path != "/discovery/kubelets" {
							want = []int{http.StatusNotFound}
						} else if who.cert == &stock {
							want = []int{http.StatusForbidden, http.StatusUnauthorized}
						}
					}
					if err != nil || !slices.Contains(want, code) {
						t.Errorf("GET %s of port %d by %s: status %d, %v, expected %v: %.200s", path, at.Port(), who.name, code, err, want, body)
					}
				case err == nil && code < 400:
					t.Errorf("GET %s of port %d by %s: status %d, expected a refusal: %.200s", path, at.Port(), who.name, code, body)
				}
				if strings.Contains(body, "edge-1") && who.name != "an edge node" {
					t.Errorf("GET %s of port %d by %s tells of a node: %.200s", path, at.Port(), who.name, body)
				}
			}
		}
	}
	// Link, joins, discovery and a port for the node; UDP is the link's, whose attacks are in tests/link.
	if len(seen) != 4 || !seen[kubelet] {
		t.Errorf("CloudCore listens to the network on ports %v, expected four, with the node's %d", seen, kubelet)
	}
}

// askAs asks a server by GET, with a certificate or a token.
func askAs(url string, cert *tls.Certificate, token string) (int, string, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	config := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	r, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r.StatusCode, string(b), err
}

// TestNobodyAtTheSiteAsksTheKubelet: a pod on the host's network, an ordinary pod and a neighbour of the edge, with the
// token of their service account and without.
func TestNobodyAtTheSiteAsksTheKubelet(t *testing.T) {
	s := sharedSystem(t)
	ordinary := demoPod("ordinary")
	host := demoPod("on-the-host")
	host.Spec.HostNetwork = true
	host.Spec.Containers[0].Args = []string{"serve", "--addr", "127.0.0.1:18080"}
	for _, p := range []*corev1.Pod{ordinary, host} {
		s.createPod(p)
		s.waitPod(p.Name, time.Minute, podReady)
	}
	n, err := s.Admin.CoreV1().Nodes().Get(t.Context(), "edge-1", metav1.GetOptions{})
	s.must(err)
	cloud := net.JoinHostPort(n.Status.Addresses[0].Address, fmt.Sprint(n.Status.DaemonEndpoints.KubeletEndpoint.Port))
	const token = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	own, gateway := s.edge.Address(), podGateway(s.edge.PodSubnet())
	for _, c := range []struct {
		pod, address string
		args         []string
		want         string // the status, or the words of an error
	}{
		{"on-the-host", "127.0.0.1:10350", nil, "401"}, {"on-the-host", "127.0.0.1:10350", []string{token}, "401"},
		{"on-the-host", own + ":10350", nil, "refused"}, {"on-the-host", "127.0.0.1:10550", nil, "401"}, {"on-the-host", "127.0.0.1:10550", []string{token}, "401"},
		{"ordinary", "127.0.0.1:10350", nil, "refused"}, {"ordinary", own + ":10350", nil, "refused"}, {"ordinary", own + ":10350", []string{token}, "refused"},
		{"ordinary", own + ":10550", nil, "refused"}, {"ordinary", own + ":10351", nil, "refused"}, {"ordinary", gateway + ":10350", nil, "refused"},
		{"on-the-host", cloud, nil, "401"}, {"on-the-host", cloud, []string{token}, "403"},
		{"ordinary", cloud, nil, "401"}, {"ordinary", cloud, []string{token}, "403"},
	} {
		paths := []string{"/pods", "/metrics", "/exec/default/ordinary/demo?command=/demo&output=1"}
		if strings.HasSuffix(c.address, ":10550") {
			paths = []string{"/api/v1/secrets", "/api/v1/pods", "/version"}
		}
		for _, path := range paths {
			r := s.kubectl("", append([]string{"exec", c.pod, "--", "/demo", "get", "https://" + c.address + path}, c.args...)...)
			if !strings.HasPrefix(r.out, c.want) && !(r.code != 0 && strings.Contains(r.err, c.want)) {
				t.Errorf("%s asks %s%s with %q: exit code %d, %q, %q: expected %s", c.pod, c.address, path, c.args, r.code, r.out, r.err, c.want)
			}
		}
	}
	// What listens in the edge's network does so on loopback, and a neighbour reaches none of it.
	pid, err := s.edge.CorePID()
	s.must(err)
	all := listeners(t, pid, true)
	if !slices.ContainsFunc(all, func(a netip.AddrPort) bool { return a.Port() == 10350 }) {
		t.Errorf("the kubelet's own port is not among %v", all)
	}
	// This process is at the other end of the edge's cable.
	for _, at := range all {
		if !at.Addr().IsLoopback() {
			t.Errorf("something on the edge listens to its network: %s", at)
		}
		c, err := net.DialTimeout("tcp", net.JoinHostPort(own, fmt.Sprint(at.Port())), 10*time.Second)
		if err == nil {
			_ = c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a neighbour asks for port %d of the edge: %v, expected it to be refused", at.Port(), err)
		}
	}
}

// podGateway is the edge's own address in the network of its pods.
func podGateway(subnet string) string { return netip.MustParsePrefix(subnet).Addr().Next().String() }
