package stack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/tests/cluster"
)

// PlainAPIServer starts upstream's etcd and kube-apiserver with the few flags that they cannot do without, and nothing of
// what cloud/controlplane adds: no controller manager, no scheduler, a certificate that the API server signs for itself.
func PlainAPIServer(ctx context.Context, c *cluster.Cluster) (*cluster.ControlPlane, error) {
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.Dir(), "plain")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare a plain API server: %w", err)
	}
	ports, err := cluster.FreePorts(3, "")
	if err != nil {
		return nil, err
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	if _, err := c.Start(cluster.ProcessConfig{Name: "etcd", Argv: []string{program, "component", "etcd", "--name=plain",
		"--data-dir=" + filepath.Join(dir, "etcd"), "--listen-client-urls=" + client, "--advertise-client-urls=" + client, "--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer, "--initial-cluster=plain=" + peer, "--log-outputs=stderr"}}); err != nil {
		return nil, err
	}
	token, err := writeSecrets(dir)
	if err != nil {
		return nil, err
	}
	server := fmt.Sprintf("https://127.0.0.1:%d", ports[2])
	process, err := c.Start(cluster.ProcessConfig{Name: "kube-apiserver", Argv: []string{program, "component", "kube-apiserver",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]), "--etcd-servers=" + client, "--cert-dir=" + filepath.Join(dir, "certs"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--token-auth-file=" + filepath.Join(dir, "tokens.csv"),
		"--service-account-issuer=https://plain.example", "--service-account-signing-key-file=" + filepath.Join(dir, "sa.key"),
		"--service-account-key-file=" + filepath.Join(dir, "sa.pub"), "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"}})
	if err != nil {
		return nil, err
	}
	control := &cluster.ControlPlane{Process: process, Server: server, Kubeconfig: filepath.Join(dir, "admin.kubeconfig")}
	config := clientcmdapi.NewConfig()
	config.Clusters["plain"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: filepath.Join(dir, "certs", "apiserver.crt")}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["plain"] = &clientcmdapi.Context{Cluster: "plain", AuthInfo: "admin"}
	config.CurrentContext = "plain"
	if err := clientcmd.WriteToFile(*config, control.Kubeconfig); err != nil {
		return nil, fmt.Errorf("prepare a plain API server: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return control, poll(wait, "the plain API server", func() error { return answersReady(wait, server, token) })
}

// writeSecrets writes the admin's token and the key of service accounts' tokens.
func writeSecrets(dir string) (token string, err error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	token = hex.EncodeToString(random)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	for name, content := range map[string][]byte{
		"tokens.csv": []byte(token + `,admin,admin,"system:masters"` + "\n"),
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return "", fmt.Errorf("write the API server's secrets: %w", err)
		}
	}
	return token, nil
}

// answersReady asks /readyz. The certificate is the server's own and is not looked at.
func answersReady(ctx context.Context, server, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}
