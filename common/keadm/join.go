package keadm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/join"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

const (
	defaultCertPort = join.Port
	defaultConfig   = "/etc/tether/edgecore.yaml"
)

// edgeFiles are where a node's files are.
type edgeFiles struct {
	config, data, pki string
}

func (e *edgeFiles) flags(c *cobra.Command) {
	c.Flags().StringVar(&e.config, "config", defaultConfig, "path of edgecore's configuration file")
	c.Flags().StringVar(&e.data, "data-dir", "/var/lib/tether", "directory of edgecore's data")
	c.Flags().StringVar(&e.pki, "pki-dir", "/etc/tether/pki", "directory of the node's key and certificates")
}

func (e *edgeFiles) key() string  { return filepath.Join(e.pki, "node.key") }
func (e *edgeFiles) cert() string { return filepath.Join(e.pki, "node.crt") }
func (e *edgeFiles) ca() string   { return filepath.Join(e.pki, "ca.crt") }

type joinFlags struct {
	edgeFiles
	servers  []string
	certPort int
	token    string
	name     string
	runtime  string
	labels   []string
	protocol string
	cgroups  string
	podCIDR  string
	settings []string
	service  string
	ignore   []string
	replace  bool
	timeout  time.Duration
	output   string
}

// joinResult is what join did, for programs.
type joinResult struct {
	Node        string `json:"node"`
	Config      string `json:"config"`
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	// Service is how edgecore is kept running: systemd, process or none.
	Service string `json:"service"`
	// Ready is whether the cluster says so; with the service none nothing was started, and it was not asked.
	Ready bool `json:"ready"`
}

func newJoin(w IO) *cobra.Command {
	var f joinFlags
	c := &cobra.Command{
		Use:   "join --cloudcore-ipport HOST:PORT --token TOKEN",
		Short: "Make this machine an edge node",
		Long: "Make this machine an edge node: look for what would hurt later, get a certificate with a join token (the private key\n" +
			"is made here and stays here), write the configuration, start edgecore, and wait until the cluster says that the node is Ready.\n" +
			"'keadm init' and 'keadm gettoken' beside the cluster print tokens.",
		Example: "  keadm join --cloudcore-ipport cloud.example.org:10000 --token TOKEN\n" +
			"  keadm join -e 192.0.2.1:10000 -e 192.0.2.2:10000 -t TOKEN --edgenode-name shop-1 --labels zone=north --hub-protocol auto",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(f.servers) == 0 || f.token == "" {
				return fmt.Errorf("%w: expected --cloudcore-ipport and --token, as 'keadm init' printed them", errUsage)
			}
			progress, err := progressOf(w, f.output)
			if err != nil {
				return err
			}
			done, err := joinEdge(c.Context(), progress, &f)
			if err != nil {
				return err
			}
			return showResult(w, f.output, done)
		},
	}
	f.machineFlags(c)
	fl := c.Flags()
	fl.StringVarP(&f.token, "token", "t", "", "join token, as 'keadm gettoken' prints it")
	fl.StringVarP(&f.name, "edgenode-name", "i", "", "name of the node (default: this machine's host name)")
	fl.StringSliceVarP(&f.labels, "labels", "l", nil, "KEY=VALUE labels that the node registers with")
	fl.StringVar(&f.podCIDR, "pod-cidr", "10.244.0.0/24", "addresses for this node's pods, where the machine has no CNI configuration yet")
	fl.StringVar(&f.service, "service", serviceAuto, "systemd, process (kept running by 'keadm supervise'), none (only write the files), or auto")
	fl.StringSliceVar(&f.ignore, "ignore-preflight-errors", nil, "names of findings that do not stop the join, or all")
	fl.BoolVar(&f.replace, "replace", false, "take the name over from a machine that this one replaces; needs a token for this name alone")
	fl.DurationVar(&f.timeout, "timeout", 3*time.Minute, "how long to wait until the node is Ready")
	outputFlag(c, &f.output)
	choices(c, "service", services...)
	return c
}

// machineFlags are those that the preflight looks at.
func (f *joinFlags) machineFlags(c *cobra.Command) {
	f.flags(c)
	fl := c.Flags()
	fl.StringSliceVarP(&f.servers, "cloudcore-ipport", "e", nil, "host:port of CloudCore's WebSocket port; repeat for more")
	fl.IntVarP(&f.certPort, "certport", "s", defaultCertPort, "CloudCore's join port")
	fl.StringVarP(&f.runtime, "remote-runtime-endpoint", "p", "unix:///run/containerd/containerd.sock", "the container runtime's CRI socket")
	fl.StringVar(&f.protocol, "hub-protocol", string(v1alpha1.ProtocolWebSocket), "websocket, quic, or auto: race the two, prefer QUIC, fall back where UDP is dropped")
	fl.StringVar(&f.cgroups, "cgroupdriver", "auto", "cgroupfs, systemd, or auto: ask the runtime")
	fl.StringArrayVar(&f.settings, "set", nil, "KEY.PATH=VALUE of edgecore's configuration ('edgecore --print-defaults' shows it); repeat for more")
	choices(c, "hub-protocol", protocols...)
	choices(c, "cgroupdriver", cgroupDrivers...)
}

func joinEdge(ctx context.Context, w IO, f *joinFlags) (*joinResult, error) {
	bearer, err := trust.ParseBearer(f.token)
	if err != nil {
		return nil, err
	}
	if err := f.complete(); err != nil {
		return nil, err
	}
	if err := knownFindings(f.ignore); err != nil {
		return nil, err
	}
	cfg, file, err := f.edgeConfig()
	if err != nil {
		return nil, err
	}
	s, err := newService(f.service, "edgecore", f.config, runDir(cfg.DataDir))
	if err != nil {
		return nil, err
	}
	p, err := newPreflight(w, cfg, f.config)
	if err != nil {
		return nil, err
	}
	if err := f.earlier(ctx, w, p, bearer); err != nil {
		return nil, err
	}
	if err := admit(w, p.run(ctx), f.ignore); err != nil {
		return nil, err
	}
	machine, err := machineHash("/")
	if err != nil {
		return nil, err
	}
	key, err := f.nodeKey()
	if err != nil {
		return nil, err
	}
	resp, err := f.obtain(ctx, w, p.ports, bearer, key, machine)
	if err != nil {
		return nil, err
	}
	if file, err = f.withQUIC(file, cfg, resp.QUICPort); err != nil {
		return nil, err
	}
	if err := f.write(resp, file); err != nil {
		return nil, err
	}
	fmt.Fprintf(w.Out, "joined   as node %s; key and certificate in %s, configuration in %s\n", f.name, f.pki, f.config)
	if err := writeNetwork(w, "/", f.podCIDR); err != nil {
		return nil, err
	}
	if err := s.install(ctx, w); err != nil {
		return nil, err
	}
	done := &joinResult{Node: f.name, Config: f.config, Key: f.key(), Certificate: f.cert(), Service: s.kind, Ready: s.kind != serviceNone}
	if s.kind == serviceNone {
		return done, nil
	}
	return done, f.waitReady(ctx, w, s, cfg, p.ports)
}

// complete fills in what was not said and checks what was.
func (f *joinFlags) complete() error {
	if f.name == "" {
		h, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("ask for the host name: %w; say the node's name with --edgenode-name", err)
		}
		f.name = strings.ToLower(h)
	}
	// Neither systemd nor a supervisor runs it in the present directory.
	var err error
	if f.config, err = filepath.Abs(f.config); err != nil {
		return fmt.Errorf("%w: --config: %w", errUsage, err)
	}
	for _, s := range f.servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return fmt.Errorf("%w: --cloudcore-ipport: expected host:port, such as 10.0.0.1:10000, found %q", errUsage, s)
		}
	}
	if err := oneOf("hub-protocol", f.protocol, protocols); err != nil {
		return err
	}
	return oneOf("cgroupdriver", f.cgroups, cgroupDrivers)
}

// What two flags take.
var (
	protocols     = []string{string(v1alpha1.ProtocolWebSocket), string(v1alpha1.ProtocolQUIC), string(v1alpha1.ProtocolAuto)}
	cgroupDrivers = []string{string(v1alpha1.CgroupCgroupfs), string(v1alpha1.CgroupSystemd), string(v1alpha1.CgroupAuto)}
)

// oneOf makes a flag's value that is none of the known ones a usage error.
func oneOf(flag, value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("%w: --%s: expected one of %s, found %q", errUsage, flag, strings.Join(known, ", "), value)
}

func (f *joinFlags) edgeConfig() (*v1alpha1.EdgeCore, []byte, error) {
	labels, err := parseLabels(f.labels)
	if err != nil {
		return nil, nil, err
	}
	cfg := v1alpha1.DefaultEdgeCore()
	cfg.NodeName, cfg.DataDir = f.name, f.data
	cfg.Cloud.Servers, cfg.Cloud.JoinPort = f.servers, f.certPort
	cfg.Cloud.Protocol = v1alpha1.Protocol(f.protocol)
	cfg.Cloud.CAFile, cfg.Cloud.CertFile, cfg.Cloud.KeyFile = f.ca(), f.cert(), f.key()
	// A service has none of this shell's environment.
	if u := environmentProxy(f.servers, f.certPort); u != nil {
		cfg.Cloud.Proxy = u.String()
	}
	cfg.Kubelet.ContainerRuntimeEndpoint = f.runtime
	if !strings.Contains(f.runtime, "://") {
		cfg.Kubelet.ContainerRuntimeEndpoint = "unix://" + f.runtime
	}
	cfg.Kubelet.CgroupDriver = v1alpha1.CgroupDriver(f.cgroups)
	cfg.Kubelet.NodeLabels = labels
	b, err := v1alpha1.Marshal(cfg)
	if err != nil {
		return nil, nil, err
	}
	if b, err = withSettings(b, f.settings); err != nil {
		return nil, nil, err
	}
	if cfg, err = v1alpha1.DecodeEdgeCore(b); err != nil {
		return nil, nil, fmt.Errorf("edgecore's configuration: %w", err)
	}
	return cfg, b, nil
}

// wouldBe is the configuration that a join with the same flags would write, which need name no CloudCore yet.
func (f *joinFlags) wouldBe() (*v1alpha1.EdgeCore, error) {
	if err := f.complete(); err != nil {
		return nil, err
	}
	servers := f.servers
	if len(servers) == 0 {
		f.servers = []string{"none.invalid:1"}
	}
	cfg, _, err := f.edgeConfig()
	if err == nil && len(servers) == 0 {
		cfg.Cloud.Servers = nil
	}
	return cfg, err
}

// nodeKey reads the node's key, or makes it. An earlier join that did not finish is continued with its key, so that it
// uses its token once.
func (f *joinFlags) nodeKey() (crypto.Signer, error) {
	b, err := os.ReadFile(f.key())
	if errors.Is(err, fs.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the node's key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("make the node's key: %w", err)
		}
		if err := os.MkdirAll(f.pki, 0o700); err != nil {
			return nil, fmt.Errorf("make the node's key: %w", err)
		}
		return key, pki.WriteFile(f.key(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("read the node's key: expected PEM in %s; remove the file to make another key", f.key())
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %s: %w; remove the file to make another key", f.key(), err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read the node's key: %s holds a %T, expected a key that signs", f.key(), key)
	}
	return signer, nil
}

// obtain asks the CloudCores in turn for a certificate. A refusal ends it: the others would say the same.
func (f *joinFlags) obtain(ctx context.Context, w IO, ports *joinPorts, bearer trust.Bearer, key crypto.Signer, machine string) (*join.Response, error) {
	csr, err := pki.NewNodeRequest(f.name, key)
	if err != nil {
		return nil, err
	}
	// A network that loses a tenth of all packets takes a few tries for the four round trips of a request.
	var failed error
	for try := range joinTries {
		var resp *join.Response
		if resp, failed = f.ask(ctx, w, ports, bearer, csr, machine); resp != nil {
			return resp, nil
		}
		var refusal *join.Refusal
		if errors.As(failed, &refusal) || errors.Is(failed, join.ErrPin) || ctx.Err() != nil {
			break
		}
		fmt.Fprintf(w.Err, "try %d of %d: %v\n", try+1, joinTries, failed)
	}
	return nil, failed
}

const joinTries = 4

// ask asks each CloudCore once.
func (f *joinFlags) ask(ctx context.Context, w IO, ports *joinPorts, bearer trust.Bearer, csr []byte, machine string) (*join.Response, error) {
	var failed error
	for _, server := range ports.servers {
		c := ports.client(server, w.Now)
		ca, err := c.CA(ctx, bearer.Pin)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		roots, err := join.NewStaticRoots(ca)
		if err != nil {
			return nil, err
		}
		c.Roots = roots
		for {
			resp, err := c.Join(ctx, join.Request{TokenID: bearer.ID, TokenSecret: bearer.Secret, Node: f.name, CSR: string(csr), Machine: machine, Replace: f.replace})
			var refusal *join.Refusal
			if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
				fmt.Fprintf(w.Err, "waiting %s: %s\n", refusal.RetryAfter, refusal.Message)
				select {
				case <-time.After(refusal.RetryAfter):
					continue
				case <-ctx.Done():
					return nil, fmt.Errorf("%w while CloudCore wanted to be asked later: %s", errInterrupted, refusal.Message)
				}
			}
			if err == nil || refusal != nil {
				return resp, err
			}
			failed = errors.Join(failed, err)
			break
		}
	}
	return nil, failed
}

// withQUIC puts CloudCore's UDP port into the configuration, unless --set named one.
func (f *joinFlags) withQUIC(file []byte, cfg *v1alpha1.EdgeCore, port int) ([]byte, error) {
	for _, s := range f.settings {
		if strings.HasPrefix(s, "cloud.quicPort=") {
			return file, nil
		}
	}
	if port == 0 && cfg.Cloud.Protocol == v1alpha1.ProtocolQUIC {
		return nil, fmt.Errorf("CloudCore offers no QUIC: join with --hub-protocol websocket, or set hub.quicPort there")
	}
	return withSettings(file, []string{fmt.Sprintf("cloud.quicPort=%d", port)})
}

func (f *joinFlags) write(resp *join.Response, config []byte) error {
	certs, err := pki.ParseCertificates([]byte(resp.Certificate))
	if err != nil {
		return fmt.Errorf("CloudCore's answer: %w", err)
	}
	if name, err := pki.NodeName(certs[0]); err != nil || name != f.name {
		return fmt.Errorf("CloudCore's answer: expected a certificate of node %q, found one of %q", f.name, certs[0].Subject)
	}
	if err := pki.WriteFile(f.ca(), []byte(resp.CA), 0o644); err != nil {
		return err
	}
	if err := pki.WriteFile(f.cert(), []byte(resp.Certificate), 0o644); err != nil {
		return err
	}
	return pki.WriteFile(f.config, config, 0o600)
}

// identified talks to a join port as the node.
func identified(files *v1alpha1.Cloud, ports *joinPorts, server string, now pki.Clock) (*join.Client, error) {
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	ca, err := os.ReadFile(files.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the edge CA: %w", err)
	}
	roots, err := join.NewStaticRoots(ca)
	if err != nil {
		return nil, fmt.Errorf("read the edge CA: %s: %w", files.CAFile, err)
	}
	c := ports.client(server, now)
	c.Roots, c.Identity = roots, presented{&pair}
	return c, nil
}

type presented struct{ cert *tls.Certificate }

func (p presented) Certificate() *tls.Certificate { return p.cert }

func (f *joinFlags) waitReady(ctx context.Context, w IO, s *service, cfg *v1alpha1.EdgeCore, ports *joinPorts) error {
	next := 0
	err := waitFor(ctx, w, f.timeout, seldom, fmt.Sprintf("node %s to be ready", f.name), func(ctx context.Context) answer {
		c, err := identified(&cfg.Cloud, ports, ports.servers[next%len(ports.servers)], w.Now)
		if err != nil {
			return answer{missing: err.Error()}
		}
		st, err := c.Node(ctx)
		if err == nil {
			return answer{ok: st.Ready, missing: st.Reason}
		}
		var refusal *join.Refusal
		if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
			return answer{retryAfter: refusal.RetryAfter} // it tells nothing of the node
		}
		next++
		return answer{missing: err.Error()}
	})
	if err != nil {
		return fmt.Errorf("%w\nedgecore goes on trying%s\n'keadm check' looks at this machine again; the same join may be run again", err, s.end(ctx))
	}
	return nil
}

// machineHash names this machine: by what its operating system or its firmware says.
func machineHash(root string) (string, error) {
	for _, p := range []string{"etc/machine-id", "var/lib/dbus/machine-id", "sys/class/dmi/id/product_uuid"} {
		b, err := os.ReadFile(filepath.Join(root, p))
		if id := bytes.TrimSpace(b); err == nil && len(id) >= 16 {
			sum := sha256.Sum256(slices.Concat([]byte("tether machine\n"), id))
			return hex.EncodeToString(sum[:]), nil
		}
	}
	return "", errors.New("this machine has no id: expected one in /etc/machine-id: write it with systemd-machine-id-setup or 'dbus-uuidgen --ensure=/etc/machine-id'")
}
