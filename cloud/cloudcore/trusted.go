package cloudcore

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/cloud/issuer"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/common/pki"
)

// trusted is the cluster's trust, once it was loaded.
type trusted struct {
	*issuer.Trusted
	loaded chan struct{}
}

// servingHosts are the names and addresses by which this CloudCore is called: by edges, and by who asks kubelets.
func servingHosts(cfg *v1alpha1.CloudCore) []string {
	hosts := slices.Clone(cfg.Hub.AdvertiseAddresses)
	if a := cfg.Tunnel.AdvertiseAddress; a != "" && !slices.Contains(hosts, a) {
		hosts = append(hosts, a)
	}
	return hosts
}

// wait waits until it was loaded; false when ctx ended first.
func (t trusted) wait(ctx context.Context) bool {
	select {
	case <-t.loaded:
		return true
	case <-ctx.Done():
		return false
	}
}

// recheck ends the sessions that what changed no longer allows.
func (c *CloudCore) recheck() {
	if h := c.hub.Load(); h != nil {
		h.Recheck()
	}
}

// followTrust loads the cluster's trust, for as long as it takes, and then follows it.
func (c *CloudCore) followTrust(ctx context.Context) error {
	said := ""
	for {
		err := c.trusted.Load(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			c.deps.Log.Error("cannot read the edge CA, trying again", "error", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
	close(c.trusted.loaded)
	return c.trusted.Start(ctx)
}

// joinNodes are the nodes as the join port asks for them.
type joinNodes struct {
	*node.Keeper
	hub *atomic.Pointer[hub.Hub]
}

// Session asks this CloudCore's hub, and the Lease for the sessions of others.
func (n joinNodes) Session(ctx context.Context, name string) (key string, live bool, err error) {
	h := n.hub.Load()
	if h != nil {
		if cert := h.Answering(ctx, name); cert != nil {
			key, err = pki.KeyPin(cert.PublicKey)
			return key, true, err
		}
	}
	session, _, err := n.Holder(ctx, name)
	return "", session != "" && (h == nil || !h.Owns(session)), err
}

// serveJoins serves the join port.
func (c *CloudCore) serveJoins(ctx context.Context) error {
	if !c.trusted.wait(ctx) {
		return nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.cfg.Hub.BindAddress, strconv.Itoa(c.cfg.Join.Port)))
	if err != nil {
		return fmt.Errorf("join.port: %w: end what uses the port, or choose another", err)
	}
	var servers []string
	for _, a := range c.cfg.Hub.AdvertiseAddresses {
		servers = append(servers, net.JoinHostPort(a, strconv.Itoa(c.cfg.Hub.WebSocketPort)))
	}
	c.deps.Log.Info("listening for joins", "address", listener.Addr().String())
	return issuer.New(issuer.Config{Validity: c.cfg.Join.CertificateLife.Std(), Grace: c.cfg.Join.RenewalGrace.Std(),
		Servers: servers, QUICPort: c.cfg.Hub.QUICPort, MaxConnections: c.cfg.Join.MaxConnections},
		issuer.Deps{Listener: listener, Trust: c.store, CA: c.trusted, Nodes: joinNodes{c.nodes, &c.hub}, Log: c.deps.Log.With("part", "join"),
			Now: c.deps.Now, Registry: c.reg}).Start(ctx)
}
