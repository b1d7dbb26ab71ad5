package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// outsideFaults are of what lies between a site and CloudCore and belongs to neither. The edge gets a configuration with names and a
// proxy for the time of the fault.
func outsideFaults() []Fault {
	const goesOn = "The site runs on; the link is back once it is back, and nothing is lost."
	return []Fault{
		{Name: "dns-dead", Class: Link, What: "CloudCore has a name, the name server is silent, and both CloudCores are restarted meanwhile.", Promise: goesOn,
			Least: 10 * time.Second, Most: 20 * time.Second, Forgets: handful, Alone: true, begin: behind(false, func(f *fault, o *outside) (func() error, error) {
				o.silenceNames(true)
				var faults []error
				for _, c := range f.w.clouds {
					faults = append(faults, c.Kill(), c.Restart())
				}
				return func() error { o.silenceNames(false); return nil }, errors.Join(faults...)
			})},
		{Name: "proxy-dead", Class: Link, What: "The site reaches CloudCore through a proxy, and the proxy is gone.", Promise: goesOn,
			Least: 10 * time.Second, Most: 20 * time.Second, Forgets: handful, Alone: true, begin: behind(true, func(_ *fault, o *outside) (func() error, error) {
				o.killProxy(true)
				return func() error { o.killProxy(false); return nil }, nil
			})},
	}
}

// behind has the edge reach the CloudCores by name, and if so through a proxy, while a fault of these lasts.
func behind(proxied bool, die func(*fault, *outside) (func() error, error)) func(*fault) (func() error, error) {
	return func(f *fault) (func() error, error) {
		names, servers := map[string]netip.Addr{}, []string{}
		for server := range f.w.clouds {
			at, err := netip.ParseAddrPort(server)
			if err != nil {
				return nil, fmt.Errorf("a CloudCore's address: %w", err)
			}
			name := fmt.Sprintf("cloud-%d.tether.test", len(names))
			names[name] = at.Addr()
			servers = append(servers, net.JoinHostPort(name, fmt.Sprint(at.Port())))
		}
		o, err := newOutside(f.w.edge.RootAddress(), names)
		if err != nil {
			return nil, err
		}
		var former v1alpha1.Cloud
		resolv := filepath.Join(f.w.edge.Dir(), "resolv.conf")
		err = errors.Join(os.WriteFile(resolv, []byte("nameserver "+f.w.edge.RootAddress()+"\noptions timeout:1 attempts:1\n"), 0o644), f.w.withoutAgent(func(ctx context.Context) error {
			_, err := f.w.edge.Run(ctx, "mount", "--bind", resolv, "/etc/resolv.conf")
			return errors.Join(err, f.w.edge.Change(func(cfg *v1alpha1.EdgeCore) {
				former, cfg.Cloud.Servers = cfg.Cloud, servers
				if proxied {
					cfg.Cloud.Protocol, cfg.Cloud.Proxy = v1alpha1.ProtocolWebSocket, "http://"+o.proxies.Addr().String()
				}
			}))
		}), f.linked())
		if err != nil {
			return nil, errors.Join(err, o.close())
		}
		back, err := die(f, o)
		return func() error {
			err := errors.Join(back(), f.linked(), f.w.withoutAgent(func(ctx context.Context) error {
				_, err := f.w.edge.Run(ctx, "umount", "/etc/resolv.conf")
				return errors.Join(err, f.w.edge.Change(func(cfg *v1alpha1.EdgeCore) { cfg.Cloud = former }))
			}))
			return errors.Join(err, o.close())
		}, err
	}
}
