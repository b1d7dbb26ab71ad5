package keadm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/version"
)

// What a bundle holds at most of each, in bytes.
const (
	maxConfig  = 1 << 20
	maxMetrics = 4 << 20
	maxLog     = 4 << 20
	maxOther   = 256 << 10
)

func newCollect(w IO) *cobra.Command {
	var config, dir string
	c := &cobra.Command{
		Use:   "collect",
		Short: "Write what helpers need to know of this node into one archive, without secrets",
		Long: "Write a support bundle, tether-NODE-TIME.tar.gz: edgecore's configuration with secrets masked, its status, metrics and the\n" +
			"end of its log, what 'keadm check' and 'keadm debug diagnose edge' find, versions, and the dates of certificates.\n" +
			"Private keys, tokens, passwords and kubeconfigs are not in it. Names and addresses of nodes and pods are: look into it\n" +
			"before you hand it on. It also works where edgecore does not run, or a join failed.",
		Example: "  keadm debug collect --output-path /tmp",
		Args:    usage(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return collect(c.Context(), w, config, dir) },
	}
	configFlag(c, &config)
	c.Flags().StringVar(&dir, "output-path", ".", "directory for the archive")
	return c
}

func collect(ctx context.Context, w IO, config, dir string) error {
	text, missing := readAtMost(config, maxConfig)
	// What can be read of a faulty configuration is still the best guess.
	cfg, faulty := v1alpha1.DecodeEdgeCore(text)
	node := cfg.NodeName
	if missing != nil || faulty != nil {
		node = "unknown"
		fmt.Fprintf(w.Err, "keadm: configuration %s: %v: going on with what can be read of it and the defaults\n", config, cmp.Or(missing, faulty))
	}
	s, err := newService(serviceAuto, "edgecore", config, runDir(cfg.DataDir))
	if err != nil {
		return err
	}
	b := &bundle{made: w.Now(), name: "tether-" + node + "-" + w.Now().UTC().Format("20060102T150405Z")}
	b.knowProxy(cfg.Cloud.Proxy)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		b.knowProxy(os.Getenv(name))
	}
	b.add("edgecore.yaml", maxConfig, shownConfig(text, faulty), missing)
	b.fetch(ctx, "status.json", cfg, "/status", maxStatus)
	b.fetch(ctx, "metrics.txt", cfg, "/metrics", maxMetrics)
	log, err := s.log(ctx, maxLog)
	b.add("edgecore.log", maxLog, log, err)
	b.addFindings(ctx, w, cfg, config)
	b.add("versions.txt", maxOther, versions(ctx, s, cfg), nil)
	b.add("certificates.txt", maxOther, certificates(cfg), nil)
	archive, err := b.write()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, b.name+".tar.gz")
	if err := pki.WriteFile(path, archive, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "wrote    %s, %d KiB\nnext:    look into it (tar -xzf), then hand it on; keys, tokens and passwords are not in it\n", path, (len(archive)+1023)/1024)
	return nil
}

// proxyField is the one field of the configuration that may hold a secret, to the end of its line: in a faulty file it may
// have any form. comment may hold anything in any file.
var (
	proxyField = regexp.MustCompile(`(?im)(["']?proxy["']?\s*:).*$`)
	comment    = regexp.MustCompile(`(?m)(^|[ \t])#.*$`)
)

// shownConfig is a configuration without comments, and if it is faulty without what stands for a proxy.
func shownConfig(text []byte, faulty error) []byte {
	// The parser knows best what is a comment. What it cannot read is no configuration, and a # in it no loss.
	if tree, err := yaml.YAMLToJSON(text); err == nil {
		if plain, err := yaml.JSONToYAML(tree); err == nil {
			text = plain
		}
	} else {
		text = comment.ReplaceAll(text, nil)
	}
	if faulty != nil {
		text = proxyField.ReplaceAll(text, []byte("${1} "+masked))
	}
	return text
}

func (b *bundle) fetch(ctx context.Context, name string, cfg *v1alpha1.EdgeCore, path string, limit int) {
	data, err := fetch(ctx, "http://"+cfg.Metrics.BindAddress+path, int64(limit))
	b.add(name, limit, data, err)
}

// addFindings looks at the node and at the machine at once: where nothing answers, each takes its time.
func (b *bundle) addFindings(ctx context.Context, w IO, cfg *v1alpha1.EdgeCore, config string) {
	p, err := newPreflight(w, cfg, config)
	if err != nil {
		b.add("findings.json", maxOther, nil, err)
		return
	}
	p.held = listeners(cfg)
	machine := make(chan []finding, 1)
	go func() { machine <- p.run(ctx) }()
	node, err := diagnose(ctx, w, cfg, config)
	check := newReport()
	check.Findings = append(check.Findings, <-machine...)
	if err != nil {
		b.add("findings.json", maxOther, nil, err)
		return
	}
	data, err := json.MarshalIndent(map[string]*machineReport{"diagnose": node, "check": check}, "", "  ")
	b.add("findings.json", maxOther, append(data, '\n'), err)
}

// versions tells what runs here.
func versions(ctx context.Context, s *service, cfg *v1alpha1.EdgeCore) []byte {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n", version.String("keadm"))
	say := func(what string, text []byte, err error) {
		if err != nil {
			text = []byte(err.Error())
		}
		fmt.Fprintf(&out, "\n%s:\n%s\n", what, bytes.TrimSpace(text))
	}
	program, err := s.program()
	var text []byte
	if err == nil {
		text, err = exec.CommandContext(ctx, program, "--version").Output()
	}
	say("edgecore", text, err)
	text, err = runtimeVersion(ctx, cfg.Kubelet.ContainerRuntimeEndpoint)
	say("container runtime", text, err)
	text, err = exec.CommandContext(ctx, "runc", "--version").Output()
	say("runc", text, err)
	for _, path := range []string{"/proc/version", "/etc/os-release", "/proc/loadavg", "/proc/meminfo"} {
		text, err = readAtMost(path, maxOther/8)
		say(path, text, err)
	}
	return out.Bytes()
}

func runtimeVersion(ctx context.Context, endpoint string) ([]byte, error) {
	conn, err := dialRuntime(endpoint)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	v, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	return []byte(v.GetRuntimeName() + " " + v.GetRuntimeVersion()), err
}

// certificates tells of the node's certificates and those of its own API: the dates, and of whom they are.
func certificates(cfg *v1alpha1.EdgeCore) []byte {
	var out bytes.Buffer
	local, _ := filepath.Glob(filepath.Join(cfg.DataDir, "pki", "*.crt"))
	for _, path := range append([]string{cfg.Cloud.CertFile, cfg.Cloud.CAFile}, local...) {
		certs, err := pki.ReadCertificates(path)
		if err != nil {
			fmt.Fprintf(&out, "%s: %v\n", path, err)
		}
		for _, c := range certs {
			fmt.Fprintf(&out, "%s: %s, from %s to %s, issued by %s, SHA-256 %s\n", path, c.Subject, stamp(c.NotBefore), stamp(c.NotAfter), c.Issuer, pki.Pin(c))
		}
	}
	return out.Bytes()
}

// readAtMost reads a file's first bytes.
func readAtMost(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, limit)
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:n], err
}
