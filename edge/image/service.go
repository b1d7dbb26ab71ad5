package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/common/cri"
	"github.com/tether-edge/tether/common/localsocket"
)

const (
	// maxMessage is the kubelet's own limit of a CRI message, in both directions (k8s.io/cri-client).
	maxMessage = 16 << 20
	// maxCalls bounds the calls served at a time. The kubelet has one pull for each container at most.
	maxCalls = 4096
	// maxPath is the longest path of a Unix socket (sun_path of unix(7)).
	maxPath = 107
	// sandboxFor is how long the runtime's answer of its sandbox image is used: it changes with its configuration.
	sandboxFor = 10 * time.Minute
)

// Config says what to serve. Zero values are the defaults.
type Config struct {
	// Socket is where the kubelet finds the service: an absolute path of at most 107 bytes. Its directory is for its owner to write to.
	Socket string
	// ImageEndpoint and RuntimeEndpoint are the runtime's sockets, as unix:///path; mostly the same.
	ImageEndpoint, RuntimeEndpoint string
	// FallBack lets images serve that are here while their registry is not heard.
	FallBack bool
	// Patience is how long a registry has for its first answer before the image that is here serves. Default 15 s. One that was
	// not heard at the last pull has Hurry, default 2 s, for as long as Silence, default 1 min.
	Patience, Hurry, Silence time.Duration
	// Pause is how long a download may rest before the image that is here serves. Default 1 min: containerd shows what has come
	// in steps of 1 MiB, so that it is what a link of 140 kbit/s needs.
	Pause time.Duration
	// MaxPulls bounds the downloads at a time. Default 3.
	MaxPulls int
}

func (c Config) withDefaults() Config {
	set := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&c.Patience, 15*time.Second)
	set(&c.Hurry, 2*time.Second)
	c.Hurry = min(c.Hurry, c.Patience)
	set(&c.Silence, time.Minute)
	set(&c.Pause, time.Minute)
	if c.MaxPulls <= 0 {
		c.MaxPulls = 3
	}
	return c
}

// Deps are what a Service works with.
type Deps struct {
	Memory Memory
	// Pods returns the names of the images of all pods of the node, in any order, repeated or not.
	Pods func(context.Context) ([]string, error)
	// Served is told of each image that served in a registry's place, from several goroutines. It must not block. Nil for none.
	Served   func(Served)
	Log      *slog.Logger
	Registry prometheus.Registerer
	// Now is the machine's clock if nil.
	Now func() time.Time
}

// Service is the image service.
type Service struct {
	cfg     Config
	deps    Deps
	metrics *metrics
	proofs  *proofs
	// runtime is the connection while the service runs, for those who look; nil else.
	runtime atomic.Pointer[connection]
}

// New checks cfg and opens nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg = cfg.withDefaults()
	if !filepath.IsAbs(cfg.Socket) || len(cfg.Socket) > maxPath {
		return nil, fmt.Errorf("images.socket: expected an absolute path of at most %d bytes, found %q", maxPath, cfg.Socket)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Served == nil {
		deps.Served = func(Served) {}
	}
	return &Service{cfg: cfg, deps: deps, metrics: newMetrics(deps.Registry),
		proofs: &proofs{memory: deps.Memory, log: deps.Log, now: deps.Now}}, nil
}

// Endpoint is where the kubelet finds the service, as unix:///path.
func (s *Service) Endpoint() string { return "unix://" + s.cfg.Socket }

// Start serves until ctx ends. The error says what is wrong with the socket. A runtime that is away, or comes back, is no
// error: calls fail meanwhile as they would at its own socket.
func (s *Service) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.proofs.load(ctx); err != nil {
		return fmt.Errorf("read which credentials pulled which image: %w", err)
	}
	s.metrics.names.Set(float64(s.proofs.count()))
	listener, err := localsocket.Listen(ctx, s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen for the kubelet's image calls: %w", err)
	}
	runtime, err := s.connect()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer runtime.close()
	s.runtime.Store(runtime)
	defer s.runtime.Store(nil)
	calls := s.calls(runtime)
	defer calls.puller.end()
	return serve(ctx, listener, calls.serve)
}

// serve serves calls until ctx ends or the listener fails. When it returns no call runs, so none begins a pull.
func serve(ctx context.Context, listener net.Listener, call grpc.StreamHandler) error {
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxCalls), grpc.UnknownServiceHandler(call), grpc.WaitForHandlers(true))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
		server.Stop()
		<-ended
		return nil
	case err := <-ended:
		server.Stop() // the connections that there are
		return fmt.Errorf("serve the kubelet's image calls: %w", err)
	}
}

// calls is the service on one connection to the runtime.
type calls struct {
	runtime *connection
	puller  *puller
	pins    *pins
	proofs  *proofs
	names   func()
}

func (s *Service) calls(runtime *connection) *calls {
	return &calls{
		runtime: runtime, proofs: s.proofs,
		names: func() { s.metrics.names.Set(float64(s.proofs.count())) },
		puller: newPuller(pullDeps{runtime: runtime, proofs: s.proofs, log: s.deps.Log, metrics: s.metrics, served: s.deps.Served, now: s.deps.Now,
			limits: pullLimits{patience: s.cfg.Patience, pause: s.cfg.Pause, hurry: s.cfg.Hurry, silence: s.cfg.Silence, places: s.cfg.MaxPulls, fallBack: s.cfg.FallBack}}),
		pins: &pins{runtime: runtime, proofs: s.proofs, pods: s.deps.Pods, sandbox: runtime.sandbox, log: s.deps.Log, metrics: s.metrics, now: s.deps.Now},
	}
}

// serve is every call of the kubelet.
func (c *calls) serve(_ any, kubelet grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(kubelet)
	if !ok {
		return status.Error(codes.Internal, "a call without a name")
	}
	var change edit
	switch method {
	case runtimeapi.ImageService_PullImage_FullMethodName:
		defer c.names()
		return answerUnary(kubelet, &runtimeapi.PullImageRequest{}, c.puller.pull)
	case runtimeapi.ImageService_RemoveImage_FullMethodName:
		defer c.names()
		return answerUnary(kubelet, &runtimeapi.RemoveImageRequest{}, c.remove)
	case runtimeapi.ImageService_ListImages_FullMethodName:
		change = c.pins.list
	case runtimeapi.ImageService_StreamImages_FullMethodName:
		change = c.pins.stream
	case runtimeapi.ImageService_ImageStatus_FullMethodName:
		change = c.pins.status
	}
	return pass(c.runtime.images, method, kubelet, change)
}

// remove passes a removal on and forgets who pulled the image.
func (c *calls) remove(ctx context.Context, request *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	found, _ := c.runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: request.GetImage()}) // without it, proofs stay, which is harmless
	response, err := runtimeapi.NewImageServiceClient(c.runtime.images).RemoveImage(outgoing(ctx), request)
	if err == nil && found.GetImage().GetId() != "" {
		c.proofs.forget(context.WithoutCancel(ctx), found.GetImage().GetId())
	}
	return response, err
}

// A connection is the way to the runtime. It is made anew by itself when the runtime was started again.
type connection struct {
	images *grpc.ClientConn
	// runtime is images where both are at one socket.
	runtime *grpc.ClientConn
	pause   *sandboxImage
}

func (s *Service) connect() (*connection, error) {
	images, err := dial(s.cfg.ImageEndpoint)
	if err != nil {
		return nil, err
	}
	c := &connection{images: images, runtime: images, pause: &sandboxImage{now: s.deps.Now}}
	if s.cfg.RuntimeEndpoint != s.cfg.ImageEndpoint {
		if c.runtime, err = dial(s.cfg.RuntimeEndpoint); err != nil {
			return nil, errors.Join(err, images.Close())
		}
	}
	return c, nil
}

// dial tries again as often as the kubelet's own client does, so that a runtime that was started again is found as soon.
func dial(endpoint string) (*grpc.ClientConn, error) {
	again := backoff.DefaultConfig
	again.BaseDelay, again.MaxDelay = 100*time.Millisecond, 3*time.Second
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("connect to the runtime at %s: %w", endpoint, err)
	}
	return conn, nil
}

func (c *connection) close() {
	_ = c.images.Close() // a second end of the same is an error, and no harm
	_ = c.runtime.Close()
}

func (c *connection) PullImage(ctx context.Context, request *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return runtimeapi.NewImageServiceClient(c.images).PullImage(ctx, request)
}

func (c *connection) ImageStatus(ctx context.Context, request *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return runtimeapi.NewImageServiceClient(c.images).ImageStatus(ctx, request)
}

func (c *connection) Downloads(ctx context.Context) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return askDownloads(ctx, c.images)
}

// sandbox asks the runtime for the name of its sandbox image.
func (c *connection) sandbox(ctx context.Context) (string, error) {
	return c.pause.get(ctx, func(ctx context.Context) (string, error) {
		state, err := runtimeapi.NewRuntimeServiceClient(c.runtime).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
		if err != nil {
			return "", err
		}
		return cri.SandboxImage(state), nil
	})
}
