package keadm

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/trust"
)

// earlier looks for an earlier join with the same configuration file. One that did not finish is gone on with: what its
// edgecore holds, if it runs, is no obstacle to the preflight. The error refuses to join what is a node already, or
// another node.
func (f *joinFlags) earlier(ctx context.Context, w IO, p *preflight, bearer trust.Bearer) error {
	cfg, err := joined(f.config)
	if err != nil {
		return fmt.Errorf("an earlier join left a configuration that cannot be read: %w; mend or remove it", err)
	}
	if cfg == nil {
		return nil
	}
	if cfg.NodeName != f.name {
		return fmt.Errorf("this machine is node %q by %s: expected none, or the same name to go on with, found --edgenode-name %q; %s ends that one", cfg.NodeName, f.config, f.name, resetLine(f.config))
	}
	// Without an authority nothing was certified yet, and any CloudCore will do.
	authorities, err := pki.ReadCertificates(cfg.Cloud.CAFile)
	if err == nil && !slices.ContainsFunc(authorities, func(ca *x509.Certificate) bool { return pki.Pin(ca) == bearer.Pin }) {
		return fmt.Errorf("this machine is node %q of another CloudCore: expected a token with one of the CAs in %s, found one with %s; %s ends that one", cfg.NodeName, cfg.Cloud.CAFile, bearer.Pin, resetLine(f.config))
	}
	own, _, err := kubelets(p.root, f.config)
	if err != nil || len(own) == 0 {
		return nil // the preflight says what cannot be read
	}
	if readyNow(ctx, w, cfg) {
		return fmt.Errorf("this machine has joined already: it is node %q, and the cluster says that it is Ready (%s); %s ends that, 'keadm check' looks at it", cfg.NodeName, own[0], resetLine(f.config))
	}
	fmt.Fprintf(w.Out, "going on with the join of node %s, which is not Ready yet (%s)\n", f.name, own[0])
	p.held = listeners(cfg)
	return nil
}

// readyNow asks the join ports whether the node is Ready.
func readyNow(ctx context.Context, w IO, cfg *v1alpha1.EdgeCore) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ports, err := joinPortsOf(cfg)
	return err == nil && slices.ContainsFunc(ports.servers, func(server string) bool {
		c, err := identified(&cfg.Cloud, ports, server, w.Now)
		if err != nil {
			return false
		}
		s, err := c.Node(ctx)
		return err == nil && s.Ready
	})
}

// resetLine is the command that ends a node.
func resetLine(config string) string {
	if config == defaultConfig {
		return "'keadm reset edge'"
	}
	return "'keadm reset edge --config " + config + "'"
}
