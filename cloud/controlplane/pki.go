package controlplane

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	netutils "k8s.io/utils/net"
)

// Names of key pairs under DATA-DIR/pki (NAME.crt, NAME.key).
const (
	clusterCA    = "ca"
	frontProxyCA = "front-proxy-ca"
	etcdCA       = "etcd-ca"

	certAPIServer         = "apiserver"
	certKubeletClient     = "apiserver-kubelet-client"
	certEtcdClient        = "apiserver-etcd-client"
	certFrontProxy        = "front-proxy-client"
	certEtcd              = "etcd"
	certControllerManager = "kube-controller-manager"
	certScheduler         = "kube-scheduler"
	certAdmin             = "admin"

	// serviceAccountKey.key signs service account tokens, serviceAccountKey.pub verifies them.
	serviceAccountKey = "sa"

	// kubeletClientUser is who the API server is towards kubelets; start binds it to system:kubelet-api-admin.
	kubeletClientUser = "kube-apiserver-kubelet-client"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// renewBefore leaves a quarter of a certificate's life to notice and mend a failed renewal.
	renewBefore = 90 * 24 * time.Hour
	// backdate tolerates clients whose clock is a little behind.
	backdate = time.Hour
)

// certSpec is what a certificate must say; one that says otherwise is issued again.
type certSpec struct {
	name  string // of the files
	ca    string
	user  string   // common name
	group string   // organization, or ""
	dns   []string // subject alternative names; a certificate with any also serves
	ips   []net.IP
	// clientToo: a serving certificate that its owner also shows as a client.
	clientToo bool
}

func (s *certSpec) serves() bool { return len(s.dns)+len(s.ips) > 0 }

func (s *certSpec) usages() []x509.ExtKeyUsage {
	switch {
	case s.serves() && s.clientToo:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case s.serves():
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// certSpecs lists every certificate but the authorities'.
func certSpecs(c *Config) ([]certSpec, error) {
	dns, ips, err := apiServerNames(c)
	if err != nil {
		return nil, err
	}
	local, localIP := []string{"localhost"}, []net.IP{net.ParseIP(loopback)}
	return []certSpec{
		{name: certAPIServer, ca: clusterCA, user: "kube-apiserver", dns: dns, ips: ips},
		{name: certKubeletClient, ca: clusterCA, user: kubeletClientUser},
		{name: certFrontProxy, ca: frontProxyCA, user: "front-proxy-client"},
		// As a client, etcd speaks to itself: its gateway, and peers.
		{name: certEtcd, ca: etcdCA, user: "etcd", dns: local, ips: localIP, clientToo: true},
		{name: certEtcdClient, ca: etcdCA, user: "kube-apiserver-etcd-client"},
		// Upstream's fixed user names, to which RBAC binds their roles. The same certificate serves their health.
		{name: certControllerManager, ca: clusterCA, user: "system:kube-controller-manager", dns: local, ips: localIP, clientToo: true},
		{name: certScheduler, ca: clusterCA, user: "system:kube-scheduler", dns: local, ips: localIP, clientToo: true},
		{name: certAdmin, ca: clusterCA, user: "kubernetes-admin", group: "system:masters"},
	}, nil
}

// apiServerNames are all names and addresses by which the API server is called.
func apiServerNames(c *Config) ([]string, []net.IP, error) {
	_, services, err := net.ParseCIDR(c.ServiceClusterIPRange)
	if err != nil {
		return nil, nil, fmt.Errorf("service range: %w", err)
	}
	first, err := netutils.GetIndexedIP(services, 1) // the Service default/kubernetes
	if err != nil {
		return nil, nil, fmt.Errorf("service range: %w", err)
	}
	dns := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		dns = append(dns, host)
	}
	ips := []net.IP{first, net.ParseIP(loopback)}
	others := append([]string{c.BindAddress, c.AdvertiseAddress}, c.ExtraAddresses...)
	for _, name := range append(others, c.ExtraSANs...) {
		if ip := net.ParseIP(name); ip != nil && !ip.IsUnspecified() {
			ips = append(ips, ip)
		} else if ip == nil && name != "" {
			dns = append(dns, name)
		}
	}
	return dns, ips, nil
}

// pki is the directory of keys and certificates.
type pki struct {
	dir string
	log *slog.Logger
	now func() time.Time
}

func (p *pki) cert(name string) string { return filepath.Join(p.dir, name+".crt") }
func (p *pki) key(name string) string  { return filepath.Join(p.dir, name+".key") }
func (p *pki) pub(name string) string  { return filepath.Join(p.dir, name+".pub") }

// ensure makes what is missing and issues again what nears expiry or does not
// match specs. It leaves everything else untouched, byte for byte.
func (p *pki) ensure(specs []certSpec) error {
	cas := map[string]*keyPair{}
	for name, subject := range map[string]string{clusterCA: "kubernetes-ca", frontProxyCA: "kubernetes-front-proxy-ca", etcdCA: "etcd-ca"} {
		ca, err := p.ensureCA(name, subject)
		if err != nil {
			return err
		}
		cas[name] = ca
	}
	for i := range specs {
		if err := p.ensureCert(&specs[i], cas[specs[i].ca]); err != nil {
			return err
		}
	}
	return p.ensureServiceAccountKey()
}

// ensureCA never replaces an authority that exists: everything that trusts it would have to be told.
func (p *pki) ensureCA(name, subject string) (*keyPair, error) {
	mend := "restore both files from a backup; or, to give the cluster a new authority (every kubeconfig and node must then be given it), remove both"
	ca, err := loadKeyPair(p.cert(name), p.key(name))
	switch {
	case errors.Is(err, os.ErrNotExist) && !exists(p.cert(name)) && !exists(p.key(name)):
		return p.createCA(name, subject)
	case err != nil:
		return nil, fmt.Errorf("certificate authority %s: %w: %s", name, err, mend)
	case !p.now().Before(ca.cert.NotAfter):
		return nil, fmt.Errorf("certificate authority %s expired on %s: %s", p.cert(name), ca.cert.NotAfter.Format(time.DateOnly), mend)
	case p.now().Add(certLife).After(ca.cert.NotAfter):
		p.log.Warn("certificate authority expires soon and is not replaced by itself", "file", p.cert(name), "expires", ca.cert.NotAfter)
	}
	return ca, nil
}

func (p *pki) createCA(name, subject string) (*keyPair, error) {
	ca, err := newAuthority(subject, p.now())
	if err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", name, err)
	}
	return ca, p.save(name, ca)
}

func (p *pki) ensureCert(s *certSpec, ca *keyPair) error {
	have, err := loadKeyPair(p.cert(s.name), p.key(s.name))
	reason := ""
	switch {
	case errors.Is(err, os.ErrNotExist):
		reason = "it is missing"
	case err != nil:
		reason = err.Error()
	default:
		reason = staleness(have.cert, s, ca.cert, p.now())
	}
	if reason == "" {
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) { // the first ones are no news
		p.log.Info("issuing certificate again", "name", s.name, "reason", reason)
	}
	pair, err := ca.issue(s, p.now())
	if err != nil {
		return fmt.Errorf("issue certificate %s: %w", s.name, err)
	}
	return p.save(s.name, pair)
}

func (p *pki) save(name string, pair *keyPair) error {
	// The key first: a crash between the two leaves a pair that does not match, which is made again.
	for _, f := range []struct {
		path string
		body []byte
		mode os.FileMode
	}{{p.key(name), pair.keyPEM, 0o600}, {p.cert(name), pair.certPEM, 0o644}} {
		if err := writeFile(f.path, f.body, f.mode); err != nil {
			return fmt.Errorf("save certificate %s: %w", name, err)
		}
	}
	return nil
}

// ensureServiceAccountKey keeps the key for ever: a new one would make every token invalid.
func (p *pki) ensureServiceAccountKey() error {
	var signer crypto.Signer
	body, err := os.ReadFile(p.key(serviceAccountKey))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if signer, body, err = newRSAKey(); err != nil {
			return fmt.Errorf("make service account key: %w", err)
		}
		if err := writeFile(p.key(serviceAccountKey), body, 0o600); err != nil {
			return fmt.Errorf("save service account key: %w", err)
		}
	case err != nil:
		return fmt.Errorf("service account key: %w", err)
	default:
		if signer, err = parseKey(body); err != nil {
			return fmt.Errorf("service account key %s: %w: restore it from a backup, or remove it (all service account tokens then end)", p.key(serviceAccountKey), err)
		}
	}
	pub, err := publicPEM(signer)
	if err != nil {
		return fmt.Errorf("service account key: %w", err)
	}
	if have, err := os.ReadFile(p.pub(serviceAccountKey)); err == nil && string(have) == string(pub) {
		return nil
	}
	if err := writeFile(p.pub(serviceAccountKey), pub, 0o644); err != nil {
		return fmt.Errorf("save service account key: %w", err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
