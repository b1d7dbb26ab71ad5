package cloudcore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/cloud/hub"
	"github.com/tether-edge/tether/cloud/node"
	"github.com/tether-edge/tether/cloud/tunnel"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/transport"
)

// buildTunnel makes the kubelet endpoint, if there is to be one.
func (c *CloudCore) buildTunnel() error {
	t := c.cfg.Tunnel
	if t.FirstPort == 0 {
		return nil
	}
	address := t.AdvertiseAddress
	if address == "" {
		var err error
		if address, _, err = net.SplitHostPort(c.address()); err != nil {
			return fmt.Errorf("address of this CloudCore: %w", err)
		}
	}
	callers, err := tunnel.Delegated(c.client)
	if err != nil {
		return err
	}
	if t.ServingCertificate == v1alpha1.ServingCertificateCluster {
		c.serving = tunnel.NewServing(c.client, address, c.deps.Now, c.deps.Log.With("part", "tunnel"))
	}
	c.tunnel = tunnel.New(tunnel.Config{Address: address, BindAddress: c.cfg.Hub.BindAddress, FirstPort: t.FirstPort, LastPort: t.LastPort, MaxRequests: transport.MaxStreams},
		tunnel.Deps{Client: c.client, Cache: c.cache, IsEdge: node.IsEdge, Open: c.open, Holds: c.holds, Holder: c.holder, Doubt: c.nodes.Doubt, LastHeard: c.nodes.LastHeard, Busy: func(err error) bool { return errors.Is(err, hub.ErrStreams) }, Callers: callers,
			Certificate: c.kubeletCertificate, Log: c.deps.Log.With("part", "tunnel"), Registerer: c.reg})
	return nil
}

// serveKubelets serves the kubelet endpoint once there is a certificate for it.
func (c *CloudCore) serveKubelets(ctx context.Context) error {
	if !c.trusted.wait(ctx) {
		return nil
	}
	return c.tunnel.Start(ctx)
}

// kubeletCertificate is the cluster's where there is one: everybody who asks kubelets knows the cluster's CA, and the edge CA
// only who was told.
func (c *CloudCore) kubeletCertificate() *tls.Certificate {
	if c.serving != nil {
		if cert := c.serving.Certificate(); cert != nil {
			return cert
		}
	}
	return c.trusted.Certificate()
}

// serveDiscovery tells scrapers which kubelets there are, once that is known.
func (c *CloudCore) serveDiscovery(ctx context.Context) error {
	if !c.trusted.wait(ctx) || c.cache.WaitSynced(ctx) != nil {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(c.cfg.Hub.BindAddress, strconv.Itoa(c.cfg.Tunnel.DiscoveryPort)))
	if err != nil {
		return fmt.Errorf("tunnel.discoveryPort: %w: end what uses the port, choose another, or 0 for none", err)
	}
	c.deps.Log.Info("listening for scrapers", "address", l.Addr().String())
	return c.tunnel.ServeDiscovery(ctx, l, c.ready)
}

func (c *CloudCore) open(ctx context.Context, name string) (net.Conn, error) {
	h := c.hub.Load()
	if h == nil {
		return nil, hub.ErrAway
	}
	return h.Open(ctx, name)
}

func (c *CloudCore) holds(name string) bool {
	h := c.hub.Load()
	return h != nil && h.Holds(name)
}

// holder is the host of another CloudCore that holds a node.
func (c *CloudCore) holder(ctx context.Context, name string) (string, error) {
	_, address, err := c.nodes.Holder(ctx, name)
	if err != nil || address == "" || address == c.address() {
		return "", err
	}
	host, _, err := net.SplitHostPort(address)
	return host, err
}

// await waits for what present needs, and reports whether it is there.
func (c *CloudCore) await(ctx context.Context, name string) bool {
	return c.tunnel != nil && c.tunnel.Await(ctx, name)
}

func (c *CloudCore) present(name string, o *object.Overlay) error {
	if c.tunnel == nil {
		return nil
	}
	return c.tunnel.Present(name, o)
}

func (c *CloudCore) view(v session.View) session.View {
	if c.tunnel == nil {
		return v
	}
	return tunnel.View{View: v, Codec: c.codec, Log: c.deps.Log}
}

// features are those of the link that this CloudCore has a use for.
func (c *CloudCore) features() []string {
	if c.tunnel == nil {
		return nil
	}
	return []string{session.FeatureTunnel}
}
