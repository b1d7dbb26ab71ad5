package controlplane

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const clusterName = "tether"

// writeKubeconfigs writes the admin's (self-contained, so that it can be copied) and
// those of the components (which name the files, so that they notice a renewal).
func writeKubeconfigs(d *dataDir, p *pki, c *Config) error {
	admin, err := adminKubeconfig(p, c)
	if err != nil {
		return err
	}
	paths := []string{d.join("admin.kubeconfig")}
	if c.KubeconfigOut != "" {
		if err := os.MkdirAll(filepath.Dir(c.KubeconfigOut), 0o700); err != nil {
			return fmt.Errorf("--kubeconfig-out: %w", err)
		}
		paths = append(paths, c.KubeconfigOut)
	}
	for _, path := range paths {
		if err := saveKubeconfig(path, admin); err != nil {
			return err
		}
	}
	for _, name := range []string{certControllerManager, certScheduler} {
		config := kubeconfig(name, c, &clientcmdapi.Cluster{CertificateAuthority: p.cert(clusterCA)},
			&clientcmdapi.AuthInfo{ClientCertificate: p.cert(name), ClientKey: p.key(name)})
		if err := saveKubeconfig(d.join(name+".kubeconfig"), config); err != nil {
			return err
		}
	}
	return nil
}

func adminKubeconfig(p *pki, c *Config) (*clientcmdapi.Config, error) {
	ca, err := os.ReadFile(p.cert(clusterCA))
	if err != nil {
		return nil, fmt.Errorf("admin kubeconfig: %w", err)
	}
	pair, err := loadKeyPair(p.cert(certAdmin), p.key(certAdmin))
	if err != nil {
		return nil, fmt.Errorf("admin kubeconfig: %w", err)
	}
	return kubeconfig(certAdmin, c, &clientcmdapi.Cluster{CertificateAuthorityData: ca},
		&clientcmdapi.AuthInfo{ClientCertificateData: pair.certPEM, ClientKeyData: pair.keyPEM}), nil
}

func kubeconfig(user string, c *Config, cluster *clientcmdapi.Cluster, auth *clientcmdapi.AuthInfo) *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	cluster.Server = serverURL(c)
	config.Clusters[clusterName] = cluster
	config.AuthInfos[user] = auth
	config.Contexts[clusterName] = &clientcmdapi.Context{Cluster: clusterName, AuthInfo: user}
	config.CurrentContext = clusterName
	return config
}

func saveKubeconfig(path string, config *clientcmdapi.Config) error {
	body, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := writeFile(path, body, 0o600); err != nil {
		return fmt.Errorf("save kubeconfig: %w", err)
	}
	return nil
}

// serverURL is on loopback, which is always served.
func serverURL(c *Config) string { return fmt.Sprintf("https://%s:%d", loopback, c.SecurePort) }
