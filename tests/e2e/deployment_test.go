package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/trust"
	"github.com/tether-edge/tether/common/wire"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/host"
	"github.com/tether-edge/tether/tests/stack"
)

// TestCloudCoreAsADeployment: keadm init puts CloudCore into the cluster, on a stock kubelet's node that has the image,
// and a machine joins and connects there with the line that init printed.
func TestCloudCoreAsADeployment(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := cluster.ForTest(t)
	program, err := cluster.Program(ctx, "controlplane")
	must(err)
	control, err := c.StartControlPlane(ctx, program)
	must(err)
	s, err := stack.Attach(c, control)
	must(err)
	archives, err := cluster.Images(ctx)
	must(err)
	const repository, tag = "registry.example/tether", "test"
	image, err := images.CloudCore(ctx, filepath.Dir(archives[0].Path), repository+"/cloudcore:"+tag, "-s -w")
	must(err)
	node, err := c.NewEdgeHost(ctx, cluster.EdgeConfig{Name: "cloud-1", Images: append(archives, image)})
	must(err)
	machine, err := host.Detect("/")
	must(err)
	_, err = s.StockKubelet(ctx, node, machine.SysResource)
	must(err)
	// What kube-proxy would do: the API server at the address of its Service.
	server, err := url.Parse(control.Server)
	must(err)
	_, err = node.Run(ctx, "iptables", "-t", "nat", "-A", "OUTPUT", "-d", "10.96.0.1/32", "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to-destination", server.Host)
	must(err)

	out, err := s.Keadm(ctx, "init", "--image-repository", repository, "--image-tag", tag, "--advertise-address", node.Address())
	must(err)
	line := regexp.MustCompile(`keadm join --cloudcore-ipport (\S+) --token (\S+)`).FindStringSubmatch(out)
	if line == nil || line[1] != net.JoinHostPort(node.Address(), "10000") {
		t.Fatalf("expected a join line for %s:10000 in\n%s", node.Address(), out)
	}
	if again, err := s.Keadm(ctx, "init", "--image-repository", repository, "--image-tag", tag, "--advertise-address", node.Address()); err != nil || !strings.Contains(again, "kept     the edge CA") {
		t.Errorf("a second init: %v\n%s", err, again)
	}

	bearer, err := trust.ParseBearer(line[2])
	must(err)
	identity, roots := joinBy(ctx, t, net.JoinHostPort(node.Address(), "10002"), bearer)
	for _, p := range []transport.Protocol{transport.WebSocket, transport.QUIC} {
		dial := transport.Dial
		address := line[1]
		if p == transport.QUIC {
			dial, address = transport.DialQUIC, net.JoinHostPort(node.Address(), "10001")
		}
		stream, err := dial(ctx, address, pki.ClientTLS(identity, roots, pki.ServerName, time.Now))
		must(err)
		hello, err := wire.Append(nil, &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Versions: wire.Versions(), Node: "edge-1", Store: "s"}}})
		must(err)
		_, err = stream.Write(hello)
		must(err)
		must(stream.SetReadDeadline(time.Now().Add(20 * time.Second)))
		if f, err := wire.Read(stream, wire.MaxFrame); err != nil || f.GetWelcome() == nil {
			t.Errorf("over %s CloudCore answered %v, %v, expected a Welcome", p, f, err)
		}
		must(stream.Close())
	}
}

// TestAPlainAPIServer: keadm init and keadm join need nothing of the control plane that this project brings.
func TestAPlainAPIServer(t *testing.T) {
	ctx := t.Context()
	c := cluster.ForTest(t)
	control, err := stack.PlainAPIServer(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	s, h, keadm := newcomer(t, c, control)
	p := s.parts
	args, err := p.PrintedJoinArgs(h)
	s.must(err)
	start := time.Now()
	out, err := h.Run(ctx, append(append([]string{keadm}, args...), "--service", "process")...)
	s.must(err)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the node was Ready after %s, expected 20 s at most", took)
	}
	t.Logf("joined and Ready after %s:\n%s", time.Since(start).Round(10*time.Millisecond), out)
	s.must(p.edge.WaitReady(ctx, time.Second)) // join has waited for it
}

// joinBy gets a node's certificate with a token, as keadm join does.
func joinBy(ctx context.Context, t *testing.T, server string, bearer trust.Bearer) (*presented, pki.Roots) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	client := &join.Client{Server: server, Now: time.Now}
	ca, err := client.CA(ctx, bearer.Pin)
	must(err)
	roots, err := join.NewStaticRoots(ca)
	must(err)
	client.Roots = roots
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	csr, err := pki.NewNodeRequest("edge-1", key)
	must(err)
	response, err := client.Join(ctx, join.Request{TokenID: bearer.ID, TokenSecret: bearer.Secret, Node: "edge-1", CSR: string(csr), Machine: strings.Repeat("ab", 32)})
	must(err)
	if response.QUICPort != 10001 {
		t.Errorf("the answer names the UDP port %d, expected 10001", response.QUICPort)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	pair, err := tls.X509KeyPair([]byte(response.Certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	must(err)
	return &presented{pair}, roots
}

// presented is a pair in memory.
type presented struct{ pair tls.Certificate }

func (p *presented) Certificate() *tls.Certificate { return &p.pair }
