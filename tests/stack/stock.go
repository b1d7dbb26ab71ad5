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
	text, err := stockConfig(h, ca, sysResource)
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
func stockConfig(h *cluster.EdgeHost, clientCA string, sysResource bool) ([]byte, error) {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	add("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration")
	add("address: %s\nport: 10350\nhealthzPort: 0\nreadOnlyPort: 0", h.Address())
	add("authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}\nauthorization: {mode: Webhook}", clientCA)
	add("containerRuntimeEndpoint: unix://%s", h.Socket())
	add("cgroupDriver: cgroupfs\ncgroupRoot: %s\nfailCgroupV1: false\nfailSwapOn: false", h.Cgroup())
	add("clusterDNS: [%s]\nclusterDomain: cluster.local", h.RootAddress())
	add("evictionHard: {memory.available: 20Mi}")
	add("rotateCertificates: false\nserverTLSBootstrap: false")
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

// nodeKubeconfig gives a node an identity from the cluster's own signer, as `kubeadm join` would.
func (s *Stack) nodeKubeconfig(ctx context.Context, name, file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}}, key)
	if err != nil {
		return fmt.Errorf("make the request of %s: %w", name, err)
	}
	cert, err := s.sign(ctx, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	c, rest := clientcmdapi.NewConfig(), s.REST()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: s.Control.Server, CertificateAuthorityData: rest.CAData, CertificateAuthority: rest.CAFile}
	c.AuthInfos["n"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "n"}
	c.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*c, file); err != nil {
		return fmt.Errorf("write the kubeconfig of %s: %w", name, err)
	}
	return nil
}

func (s *Stack) sign(ctx context.Context, name string, request []byte) ([]byte, error) {
	csrs := s.Admin.CertificatesV1().CertificateSigningRequests()
	csr, err := csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}}}, metav1.CreateOptions{})
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
