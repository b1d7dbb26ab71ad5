package edgecore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/common/pki"
)

// adminGroup is the organization in the certificates of people who work at the gateway.
const adminGroup = "tether:local-admins"

// Certificates of the local API are made by a CA of this node's own: it has nothing to do with the cluster's, works
// without the cloud, and is trusted on this machine only. They are made anew at each start. All are valid from 1970 for
// as long as a machine may last, since a gateway may start for the first time with any clock.
const localValidity = 150 * 365 * 24 * time.Hour

func localClock() time.Time { return time.Unix(0, 0).Add(24 * time.Hour) }

// localPKI holds the certificates of the local API and of its clients.
type localPKI struct {
	dir    string
	host   string
	server string // host:port
	ca     *pki.CA
}

// openLocalPKI loads or makes the node's own CA in dir. One that a power cut left in half, or that cannot be used for any
// other reason, is made anew: nobody else depends on it.
func openLocalPKI(dir, address string, log *slog.Logger) (*localPKI, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", address, err)
	}
	ca, err := pki.LoadCA(dir, localClock)
	if err == nil && ca.Cert().NotBefore.Unix() == 0 {
		return &localPKI{dir: dir, host: host, server: address, ca: ca}, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the local API's CA cannot be used: making another one", "dir", dir, "error", err)
	}
	for _, f := range []string{pki.CACertFile, pki.CAKeyFile} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if ca, err = pki.NewCA("tether-local", localValidity, localClock); err != nil {
		return nil, err
	}
	if err := ca.Save(dir); err != nil {
		return nil, err
	}
	return &localPKI{dir: dir, host: host, server: address, ca: ca}, nil
}

func (p *localPKI) caFile() string { return filepath.Join(p.dir, pki.CACertFile) }

// serverTLS returns the local API's configuration.
func (p *localPKI) serverTLS() (*tls.Config, error) {
	pair, err := p.ca.IssueServer([]string{p.host, "localhost"}, localValidity)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("local API certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.Cert())
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: pool}, nil
}

// serving returns the files of the certificate of the kubelet's own server, and writes them if they are not there or not of
// this CA. They are kept from start to start: a full disk must not keep a node from starting.
func (p *localPKI) serving() (cert, key string, err error) {
	cert, key = filepath.Join(p.dir, "kubelet.crt"), filepath.Join(p.dir, "kubelet.key")
	if pair, err := tls.LoadX509KeyPair(cert, key); err == nil && pair.Leaf.CheckSignatureFrom(p.ca.Cert()) == nil {
		return cert, key, nil
	}
	pair, err := p.ca.IssueServer([]string{"127.0.0.1", "localhost"}, localValidity)
	if err != nil {
		return "", "", err
	}
	return cert, key, pair.Save(cert, key)
}

// clientTLS is what a part of this process shows to the kubelet's own server. It is never written to disk.
func (p *localPKI) clientTLS(name string) (*tls.Config, error) {
	pair, err := p.ca.IssueClient(name, []string{adminGroup}, localValidity)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.Cert())
	return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "127.0.0.1", RootCAs: pool, Certificates: []tls.Certificate{cert}}, nil
}

// writeKubeconfig writes what kubectl at the gateway needs.
func (p *localPKI) writeKubeconfig(file, node string) error {
	pair, err := p.ca.IssueClient("local-admin", []string{adminGroup}, localValidity)
	if err != nil {
		return err
	}
	c := clientcmdapi.NewConfig()
	c.Clusters[node] = &clientcmdapi.Cluster{Server: "https://" + p.server, CertificateAuthorityData: p.ca.CertPEM()}
	c.AuthInfos["local-admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: pair.Cert, ClientKeyData: pair.Key}
	c.Contexts[node] = &clientcmdapi.Context{Cluster: node, AuthInfo: "local-admin"}
	c.CurrentContext = node
	b, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return pki.WriteFile(file, b, 0o600)
}
