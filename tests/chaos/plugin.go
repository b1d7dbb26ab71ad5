package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/tether-edge/tether/tests/cluster"
)

// eyes is the resource that the device plugin offers one of.
const eyes = "chaos.tether.io/eye"

// plugin is a device plugin of the edge host, with one device.
type plugin struct {
	deviceplugin.UnimplementedDevicePluginServer
	host   *cluster.EdgeHost
	server *grpc.Server
	ended  context.Context
	end    context.CancelFunc
}

func (p *plugin) dir() string { return p.host.Path("/var/lib/kubelet/device-plugins") }

// start listens and registers with the kubelet, which has to run.
func (p *plugin) start(ctx context.Context) error {
	socket := filepath.Join(p.dir(), "eye.sock")
	if err := os.RemoveAll(socket); err != nil {
		return fmt.Errorf("start the device plugin: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("start the device plugin: %w", err)
	}
	p.server = grpc.NewServer()
	p.ended, p.end = context.WithCancel(context.Background())
	deviceplugin.RegisterDevicePluginServer(p.server, p)
	go func() { _ = p.server.Serve(l) }() // it ends with stop
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.dir(), "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("register the device plugin: %w", err)
	}
	_, err = deviceplugin.NewRegistrationClient(conn).Register(ctx, &deviceplugin.RegisterRequest{Version: deviceplugin.Version, Endpoint: filepath.Base(socket), ResourceName: eyes})
	if err := errors.Join(err, conn.Close()); err != nil {
		return errors.Join(fmt.Errorf("register the device plugin: %w", err), p.stop())
	}
	return nil
}

// stop ends it, as a power cut does.
func (p *plugin) stop() error {
	if p.server != nil {
		p.end()
		p.server.Stop()
		p.server = nil
	}
	return nil
}

func (p *plugin) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *deviceplugin.Empty, s grpc.ServerStreamingServer[deviceplugin.ListAndWatchResponse]) error {
	err := s.Send(&deviceplugin.ListAndWatchResponse{Devices: []*deviceplugin.Device{{ID: "eye-0", Health: deviceplugin.Healthy}}})
	if err != nil {
		return err
	}
	select {
	case <-p.ended.Done():
	case <-s.Context().Done():
	}
	return nil
}

func (p *plugin) Allocate(_ context.Context, r *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	var a deviceplugin.AllocateResponse
	for range r.ContainerRequests {
		a.ContainerResponses = append(a.ContainerResponses, &deviceplugin.ContainerAllocateResponse{})
	}
	return &a, nil
}
