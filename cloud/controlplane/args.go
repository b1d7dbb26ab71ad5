package controlplane

import (
	"fmt"
	"net"
	"slices"
	"strings"
)

// componentFlags returns each component's flags: those of an ordinary cluster.
func (cp *ControlPlane) componentFlags(name string) []string {
	var flags []string
	switch name {
	case nameEtcd:
		flags = cp.etcdFlags()
	case nameAPIServer:
		flags = cp.apiServerFlags()
	case nameControllerManager:
		flags = cp.controllerManagerFlags()
	case nameScheduler:
		flags = cp.schedulerFlags()
	}
	return append(flags, cp.cfg.ComponentArgs[name]...) // last, since the last of two equal flags counts
}

func (cp *ControlPlane) etcdFlags() []string {
	client := fmt.Sprintf("https://%s:%d", loopback, cp.cfg.EtcdPort)
	peer := fmt.Sprintf("https://%s:%d", loopback, cp.cfg.EtcdPeerPort)
	p := cp.pki
	return []string{
		"--name=tether",
		"--data-dir=" + cp.dir.join("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=tether=" + peer,
		// Loopback is open to every user of the machine, and whoever writes to etcd is above RBAC.
		"--client-cert-auth=true",
		"--trusted-ca-file=" + p.cert(etcdCA),
		"--cert-file=" + p.cert(certEtcd),
		"--key-file=" + p.key(certEtcd),
		"--peer-client-cert-auth=true",
		"--peer-trusted-ca-file=" + p.cert(etcdCA),
		"--peer-cert-file=" + p.cert(certEtcd),
		"--peer-key-file=" + p.key(certEtcd),
		"--feature-gates=InitialCorruptCheck=true",
		// The API server's lists from its cache wait for these.
		"--watch-progress-notify-interval=5s",
		"--log-outputs=stderr",
	}
}

// addressTypes is the order in which the API server tries a node's addresses.
const addressTypes = "--kubelet-preferred-address-types="

func (cp *ControlPlane) apiServerFlags() []string {
	p, c := cp.pki, &cp.cfg
	addresses := c.serveAddresses()
	flags := []string{
		"--bind-address=" + addresses[0],
		fmt.Sprintf("--secure-port=%d", c.SecurePort),
		"--service-cluster-ip-range=" + c.ServiceClusterIPRange,
		fmt.Sprintf("--etcd-servers=https://%s:%d", loopback, c.EtcdPort),
		"--etcd-cafile=" + p.cert(etcdCA),
		"--etcd-certfile=" + p.cert(certEtcdClient),
		"--etcd-keyfile=" + p.key(certEtcdClient),
		"--tls-cert-file=" + p.cert(certAPIServer),
		"--tls-private-key-file=" + p.key(certAPIServer),
		"--client-ca-file=" + p.cert(clusterCA),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth=true",
		"--allow-privileged=true",
		"--kubelet-client-certificate=" + p.cert(certKubeletClient),
		"--kubelet-client-key=" + p.key(certKubeletClient),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=" + p.key(serviceAccountKey),
		"--service-account-key-file=" + p.pub(serviceAccountKey),
		"--requestheader-client-ca-file=" + p.cert(frontProxyCA),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + p.cert(certFrontProxy),
		"--proxy-client-key-file=" + p.key(certFrontProxy),
		// No kube-proxy runs beside this API server, so it must find endpoints of extension servers by itself.
		"--enable-aggregator-routing=true",
	}
	// A second one would be added to the end, and the order is what it is about.
	if !slices.ContainsFunc(c.ComponentArgs[nameAPIServer], func(a string) bool { return strings.HasPrefix(a, addressTypes) }) {
		flags = append(flags, addressTypes+"InternalIP,ExternalIP,Hostname")
	}
	for _, a := range addresses[1:] {
		flags = append(flags, alsoListen+a)
	}
	bind := net.ParseIP(c.BindAddress)
	switch a := c.advertised(); {
	case a != "":
		flags = append(flags, "--advertise-address="+a)
	case !bind.IsUnspecified(): // else upstream takes the address of the default route
		flags = append(flags, "--advertise-address="+loopback, "--endpoint-reconciler-type=none")
	}
	return flags
}

func (cp *ControlPlane) controllerManagerFlags() []string {
	p, c := cp.pki, &cp.cfg
	flags := append(cp.clientFlags(certControllerManager, c.ControllerManagerPort),
		"--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file="+p.key(serviceAccountKey),
		"--root-ca-file="+p.cert(clusterCA),
		"--cluster-signing-cert-file="+p.cert(clusterCA),
		"--cluster-signing-key-file="+p.key(clusterCA),
		"--cluster-name="+clusterName,
		"--service-cluster-ip-range="+c.ServiceClusterIPRange,
	)
	if c.ClusterCIDR == "" {
		return append(flags, "--allocate-node-cidrs=false")
	}
	return append(flags, "--allocate-node-cidrs=true", "--cluster-cidr="+c.ClusterCIDR)
}

func (cp *ControlPlane) schedulerFlags() []string {
	return cp.clientFlags(certScheduler, cp.cfg.SchedulerPort)
}

// clientFlags are those that the controller-manager and the scheduler have in common.
func (cp *ControlPlane) clientFlags(name string, port int) []string {
	p, config := cp.pki, cp.dir.join(name+".kubeconfig")
	return []string{
		"--kubeconfig=" + config,
		"--authentication-kubeconfig=" + config,
		"--authorization-kubeconfig=" + config,
		"--client-ca-file=" + p.cert(clusterCA),
		"--requestheader-client-ca-file=" + p.cert(frontProxyCA),
		"--bind-address=" + loopback,
		fmt.Sprintf("--secure-port=%d", port),
		"--tls-cert-file=" + p.cert(name),
		"--tls-private-key-file=" + p.key(name),
		"--leader-elect=false",
	}
}

// childEnvironment removes what would change a component's settings behind the
// back of its flags: etcd reads ETCD_*, and both etcd and kube-apiserver speak to NOTIFY_SOCKET.
func childEnvironment(environment []string) []string {
	var out []string
	for _, e := range environment {
		if !strings.HasPrefix(e, "ETCD_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			out = append(out, e)
		}
	}
	return out
}
