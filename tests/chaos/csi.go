package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

// tanks is the name of the CSI driver.
const tanks = "tanks.tether.io"

// socket is where the kubelet finds the driver, registrar where it looks for drivers.
func (d *driver) socket() string {
	return filepath.Join(kubeletDir(d.host), "plugins", "t", "csi.sock")
}
func (d *driver) registrar() string {
	return filepath.Join(kubeletDir(d.host), "plugins_registry", "t.sock")
}

// driver is a CSI driver of the edge host and its registrar, as two containers of a pod would be. Its volumes are directories.
type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer
	host    *cluster.EdgeHost
	servers []*grpc.Server
}

func (d *driver) start() error {
	for socket, register := range map[string]func(*grpc.Server){
		d.socket():    func(s *grpc.Server) { csi.RegisterIdentityServer(s, d); csi.RegisterNodeServer(s, d) },
		d.registrar(): func(s *grpc.Server) { registration.RegisterRegistrationServer(s, d) },
	} {
		var l net.Listener
		err := d.host.Inside(true, func() (err error) {
			if err := errors.Join(os.MkdirAll(filepath.Dir(socket), 0o750), os.RemoveAll(socket)); err != nil {
				return err
			}
			l, err = net.Listen("unix", socket)
			return err
		})
		if err != nil {
			return fmt.Errorf("start the CSI driver: %w", err)
		}
		server := grpc.NewServer()
		register(server)
		d.servers = append(d.servers, server)
		go func() { _ = server.Serve(l) }() // it ends with stop
	}
	return nil
}

// stop ends it; its sockets go with it.
func (d *driver) stop() error {
	for _, s := range d.servers {
		s.Stop()
	}
	d.servers = nil
	return d.host.Inside(true, func() error { return errors.Join(os.RemoveAll(d.socket()), os.RemoveAll(d.registrar())) })
}

func (d *driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: tanks, Endpoint: d.socket(), SupportedVersions: []string{"1.0.0"}}, nil
}

func (d *driver) NotifyRegistrationStatus(context.Context, *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	return &registration.RegistrationStatusResponse{}, nil
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: tanks, VendorVersion: "1"}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.host.Name()}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return &csi.NodePublishVolumeResponse{}, d.host.Inside(true, func() error { return os.MkdirAll(r.TargetPath, 0o755) })
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, d.host.Inside(true, func() error { return os.RemoveAll(r.TargetPath) })
}
