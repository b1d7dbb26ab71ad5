package v1alpha1

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// A Fault is one thing that is wrong with a configuration.
type Fault struct {
	// Path is the field, such as "hub.webSocketPort"; empty if Message names it.
	Path string
	// Message says what was expected and what was found.
	Message string
}

func (f Fault) String() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// Faults is every Fault of one configuration, as an error.
type Faults []Fault

func (f Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d fault", len(f))
	if len(f) != 1 {
		b.WriteString("s")
	}
	for _, x := range f {
		b.WriteString("\n  " + x.String())
	}
	return b.String()
}

// faults collects, in the order of the fields. Each method adds at most one fault.
type faults []Fault

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return Faults(f)
}

func (f *faults) add(path, expected string, found any) {
	*f = append(*f, Fault{Path: path, Message: fmt.Sprintf("expected %s, found %s", expected, show(found))})
}

// verbatim is shown without further quotes.
type verbatim string

func show(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func (f *faults) header(m TypeMeta, kind string) {
	if m.APIVersion != APIVersion {
		f.add("apiVersion", APIVersion, m.APIVersion)
	}
	if m.Kind != kind {
		f.add("kind", kind, m.Kind)
	}
}

func oneOf[T ~string](f *faults, path string, v T, allowed ...T) {
	if slices.Contains(allowed, v) {
		return
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	f.add(path, "one of "+strings.Join(names, ", "), string(v))
}

func (f *faults) log(l Log) {
	oneOf(f, "log.level", l.Level, "debug", "info", "warn", "error")
	oneOf(f, "log.format", l.Format, "text", "json")
}

func (f *faults) between(path string, v, low, high int) {
	if v < low || v > high {
		f.add(path, fmt.Sprintf("%d to %d", low, high), v)
	}
}

// rate is a number of things a second.
func (f *faults) rate(field string, r float64) {
	if !(r >= 0.01 && r <= 10_000) { // NaN is neither
		f.add(field, "0.01 to 10000 a second", r)
	}
}

func (f *faults) port(path string, v int) { f.between(path, v, 1, 65535) }

// optionalPort allows 0 for none.
func (f *faults) optionalPort(path string, v int) { f.between(path, v, 0, 65535) }

func (f *faults) duration(path string, v Duration, low, high time.Duration) {
	if v.Std() < low || v.Std() > high {
		f.add(path, fmt.Sprintf("%v to %v", Duration(low), Duration(high)), v)
	}
}

func (f *faults) bytes(path string, v, low, high Bytes) {
	if v < low || v > high {
		f.add(path, fmt.Sprintf("%v to %v", low, high), v)
	}
}

// A daemon's working directory is /, so a relative path would not mean what its author saw.
func (f *faults) path(path, v string) {
	if !filepath.IsAbs(v) {
		f.add(path, "an absolute path", v)
	}
}

func (f *faults) optionalPath(path, v string) {
	if v != "" {
		f.path(path, v)
	}
}

func (f *faults) socket(path, v string) {
	if p, ok := strings.CutPrefix(v, "unix://"); !ok || !filepath.IsAbs(p) {
		f.add(path, "a socket such as unix:///run/containerd/containerd.sock", v)
	}
}

func (f *faults) ip(path, v string) {
	if _, err := netip.ParseAddr(v); err != nil {
		f.add(path, "an IP address", v)
	}
}

func (f *faults) optionalIP(path, v string) {
	if v != "" {
		f.ip(path, v)
	}
}

func isHost(v string) bool {
	_, err := netip.ParseAddr(v)
	return err == nil || len(validation.IsDNS1123Subdomain(v)) == 0
}

func (f *faults) host(path, v string) {
	if !isHost(v) {
		f.add(path, "a DNS name or IP address, without port", v)
	}
}

// proxy leaves the value out of its message: it may hold a password.
func (f *faults) proxy(path, v string) {
	if v == "" || v == "none" {
		return
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		f.add(path, "none, or a URL such as http://user:password@proxy:3128", verbatim("something else"))
	}
}

func (f *faults) hostPort(path, v string) {
	host, port, err := net.SplitHostPort(v)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || !isHost(host) || n < 1 || n > 65535 {
		f.add(path, "host:port with a port of 1 to 65535", v)
	}
}

// loopback takes the address of a server that must not be reached from other machines.
func (f *faults) loopback(path, v string) {
	a, err := netip.ParseAddrPort(v)
	if err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
		f.add(path, "a loopback address and port, such as 127.0.0.1:10550", v)
	}
}

func (f *faults) nodeName(path, v string) {
	if len(validation.IsDNS1123Subdomain(v)) > 0 {
		f.add(path, "a DNS-1123 name: lower case letters, digits, - and ., at most 253", v)
	}
}

func (f *faults) domain(path, v string) {
	if len(validation.IsDNS1123Subdomain(v)) > 0 {
		f.add(path, "a DNS domain such as cluster.local", v)
	}
}

func (f *faults) qualifiedName(path, v string) {
	if len(validation.IsQualifiedName(v)) > 0 {
		f.add(path, "a key such as example.com/role", v)
	}
}

func (f *faults) labelValue(path, v string) {
	if len(validation.IsValidLabelValue(v)) > 0 {
		f.add(path, "at most 63 letters, digits, -, _ and ., with a letter or digit at both ends", v)
	}
}

// ownLabels are the labels in Kubernetes' own domains that a kubelet may set on its node, as NodeRestriction has it.
// A kubelet given another one exits at start.
var ownLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "node.kubernetes.io/instance-type",
	"topology.kubernetes.io/region", "topology.kubernetes.io/zone",
}

func (f *faults) label(path, key, value string) {
	domain, _, prefixed := strings.Cut(key, "/")
	within := func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) }
	switch {
	case len(validation.IsQualifiedName(key)) > 0:
		f.qualifiedName(path, key)
	case prefixed && (within("kubernetes.io") || within("k8s.io")) && !slices.Contains(ownLabels, key) &&
		!within("kubelet.kubernetes.io") && !within("node.kubernetes.io"):
		f.add(path, "a label that a node may give itself (node.kubernetes.io/..., or a domain of yours); set others in the cloud", key)
	default:
		f.labelValue(path, value)
	}
}

var signals = []string{
	"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
	"containerfs.available", "containerfs.inodesFree", "pid.available", "allocatableMemory.available",
}

func (f *faults) eviction(path, signal, v string) {
	if !slices.Contains(signals, signal) {
		f.add(path, "a signal of "+strings.Join(signals, ", "), signal)
		return
	}
	if p, ok := strings.CutSuffix(v, "%"); ok {
		if n, err := strconv.ParseFloat(p, 64); err == nil && n >= 0 && n < 100 {
			return
		}
	} else if q, err := resource.ParseQuantity(v); err == nil && q.Sign() >= 0 {
		return
	}
	f.add(path, "a quantity such as 100Mi or a percentage such as 10%", v)
}
