package stack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/retry"

	"github.com/tether-edge/tether/tests/cluster"
)

// StockKubelet makes an edge host a node by a stock kubelet that talks to the API server itself, and waits until it is
// Ready. It is built with the flags of Tether's own programs and configured as the kubelet in edgecore is. Without
// sysResource it is told what a machine without CAP_SYS_RESOURCE allows.
func (s *Stack) StockKubelet(ctx context.Context, h *cluster.EdgeHost, sysResource bool) (*cluster.Process, error) {
	name := h.Name()
	program, err := buildStockKubelet(ctx)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(h.Dir(), "kubelet")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("prepare the stock kubelet: %w", err)
	}
	if err := s.nodeKubeconfig(ctx, name, filepath.Join(dir, "kubeconfig")); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yaml")
	ca := filepath.Join(dir, "ca.crt")
	authority, err := s.clusterCA()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ca, authority, 0o644); err != nil {
		return nil, fmt.Errorf("prepare the stock kubelet: %w", err)
	}
	serving := nodeRequest(name)
	serving.IPAddresses = []net.IP{net.ParseIP(h.Address())}
	cert, key, err := s.signed(ctx, name+"-serving", serving, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "serving.crt"), cert, 0o644), os.WriteFile(filepath.Join(dir, "serving.key"), key, 0o600)); err != nil {
		return nil, fmt.Errorf("prepare the stock kubelet: %w", err)
	}
	text, err := stockConfig(h, ca, filepath.Join(dir, "serving"), sysResource)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, text, 0o644); err != nil {
		return nil, fmt.Errorf("prepare the stock kubelet: %w", err)
	}
	p, err := h.Start(cluster.ProcessConfig{Name: "kubelet-" + name, Argv: []string{program, "--config", config, "--kubeconfig", filepath.Join(dir, "kubeconfig"),
		"--hostname-override", name, "--node-ip", h.Address(), "--cert-dir", filepath.Join(dir, "pki")}})
	if err != nil {
		return nil, err
	}
	return p, s.nodeReady(ctx, name, 2*time.Minute)
}

// buildStockKubelet builds tests/cmd/stockkubelet as `make build` builds Tether's programs.
func buildStockKubelet(ctx context.Context) (string, error) {
	root, err := cluster.ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	stamps, err := cluster.KubernetesStamps(ctx)
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".tether", "bin", "stockkubelet")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-buildvcs=false", "-ldflags", "-s -w "+stamps, "-o", path, "./tests/cmd/stockkubelet")
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the stock kubelet: %w: %s", err, strings.TrimSpace(string(text)))
	}
	return path, nil
}

// stockConfig is what edge/kubelet and tests/stack set for the kubelet in edgecore, in the stock one's own form.
func stockConfig(h *cluster.EdgeHost, clientCA, serving string, sysResource bool) ([]byte, error) {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration")
	add("address: %s\nport: 10350\nhealthzPort: 0\nreadOnlyPort: 0", h.Address())
	add("authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}\nauthorization: {mode: Webhook}", clientCA)
	add("containerRuntimeEndpoint: unix://%s", h.Socket())
	add("cgroupDriver: cgroupfs\ncgroupRoot: %s\nfailCgroupV1: false\nfailSwapOn: false", h.Cgroup())
	add("clusterDNS: [%s]\nclusterDomain: cluster.local", h.RootAddress())
	// The machine's disk is not the test's to judge: a full one would cost the node the images that were made for it.
	add("evictionHard: {memory.available: 20Mi}\nimageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99")
	add("rotateCertificates: false\ntlsCertFile: %s.crt\ntlsPrivateKeyFile: %s.key", serving, serving)
	if !sysResource {
		// What such a machine refuses is asked for again every minute.
		score, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return nil, fmt.Errorf("prepare the stock kubelet: %w", err)
		}
		add("oomScoreAdj: %s\nmaxOpenFiles: 20000", strings.TrimSpace(string(score)))
	}
	return []byte(b.String()), nil
}

// clusterCA is the certificate of the cluster's CA, by PEM.
func (s *Stack) clusterCA() ([]byte, error) {
	if rest := s.REST(); len(rest.CAData) > 0 {
		return rest.CAData, nil
	}
	return os.ReadFile(s.REST().CAFile)
}

// nodeRequest asks for a certificate of a node's.
func nodeRequest(name string) *x509.CertificateRequest {
	return &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}}
}

// nodeKubeconfig gives a node an identity from the cluster's own signer, as `kubeadm join` would.
func (s *Stack) nodeKubeconfig(ctx context.Context, name, file string) error {
	cert, key, err := s.signed(ctx, name, nodeRequest(name), certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	if err != nil {
		return err
	}
	c, rest := clientcmdapi.NewConfig(), s.REST()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: s.Control.Server, CertificateAuthorityData: rest.CAData, CertificateAuthority: rest.CAFile}
	c.AuthInfos["n"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "n"}
	c.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", name, err)
	}
	return nil
}

// signed makes a key and has the cluster sign a request for it, which the admin approves. Both are returned by PEM.
func (s *Stack) signed(ctx context.Context, name string, request *x509.CertificateRequest, signer string, usage certificatesv1.KeyUsage) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", name, err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for %s: %w", name, err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, request, private)
	if err != nil {
		return nil, nil, fmt.Errorf("make the request %s: %w", name, err)
	}
	cert, err = s.sign(ctx, name, certificatesv1.CertificateSigningRequestSpec{Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}),
		SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage}})
	if err != nil {
		return nil, nil, fmt.Errorf("sign the request %s: %w", name, err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func (s *Stack) sign(ctx context.Context, name string, spec certificatesv1.CertificateSigningRequestSpec) ([]byte, error) {
	csrs := s.Admin.CertificatesV1().CertificateSigningRequests()
	csr, err := csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	approved := []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	// The control plane's own approver may write to it first.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if csr, err = csrs.Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		csr.Status.Conditions = approved
		_, err = csrs.UpdateApproval(ctx, name, csr, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = poll(wait, "the signer", func() error {
		if csr, err = csrs.Get(ctx, name, metav1.GetOptions{}); err == nil && len(csr.Status.Certificate) == 0 {
			err = errors.New("it has no certificate yet")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return csr.Status.Certificate, nil
}
