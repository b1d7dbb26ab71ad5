package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newerRuntime serves a CRI of which this program knows a part.
type newerRuntime struct {
	runtimeapi.UnimplementedImageServiceServer
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (newerRuntime) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

func (newerRuntime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{}, nil
}

// newField is a field of a newer CRI.
var newField = protowire.AppendString(protowire.AppendTag(nil, 999, protowire.BytesType), strings.Repeat("new", 2<<20))

func imagesWithNewField(ids ...string) []*runtimeapi.Image {
	var all []*runtimeapi.Image
	for _, id := range ids {
		i := &runtimeapi.Image{Id: id, RepoDigests: []string{"h/" + id + "@sha256:1"}}
		i.ProtoReflect().SetUnknown(newField)
		all = append(all, i)
	}
	return all
}

func (newerRuntime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: imagesWithNewField("a")}, nil
}

func (newerRuntime) StreamImages(_ *runtimeapi.StreamImagesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	for _, id := range []string{"a", "b"} {
		if err := s.Send(&runtimeapi.StreamImagesResponse{Images: imagesWithNewField(id)}); err != nil {
			return err
		}
	}
	return nil
}

func (newerRuntime) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	switch r.Image.Image {
	case "trouble":
		return nil, status.Error(codes.DataLoss, "the runtime's own words")
	case "no name":
		return nil, status.Error(codes.InvalidArgument, "invalid reference format")
	case "b?":
		return nil, errors.New("ambiguous: b1, b2")
	}
	// CRI-O may name an image by its digest.
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "h/" + r.Image.Image + "@sha256:1"}}, nil
}

// future echoes each message of a call that nobody knows, with what it was told of the call.
func future(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	md, _ := metadata.FromIncomingContext(s.Context())
	if err := s.SetHeader(metadata.Pairs("method", method, "trace", strings.Join(md["traceparent"], ""))); err != nil {
		return err
	}
	s.SetTrailer(metadata.Pairs("end", "of call"))
	for {
		var m runtimeapi.VersionRequest
		err := s.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return status.Error(codes.ResourceExhausted, "enough")
		}
		if err != nil {
			return err
		}
		if err := s.SendMsg(&m); err != nil {
			return err
		}
	}
}

// serveNewer runs it and returns a kubelet's connection to the service before it.
func serveNewer(t *testing.T, pods ...string) *grpc.ClientConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(future))
	runtimeapi.RegisterImageServiceServer(server, newerRuntime{})
	runtimeapi.RegisterRuntimeServiceServer(server, newerRuntime{})
	go func() { _ = server.Serve(l) }() // it ends with Stop
	t.Cleanup(server.Stop)
	conn, _ := service(t, Config{ImageEndpoint: "unix://" + path, FallBack: true}, Deps{Pods: func(context.Context) ([]string, error) { return pods, nil }})
	return conn
}

func TestCallsOfANewerCRIArePassedOn(t *testing.T) {
	conn := serveNewer(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-1-2-00")
	const method = "/runtime.v2.ImageService/Prefetch"
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", strings.Repeat("large", 3<<20/5)} {
		var got runtimeapi.VersionRequest
		if err := errors.Join(s.SendMsg(&runtimeapi.VersionRequest{Version: text}), s.RecvMsg(&got)); err != nil || got.Version != text {
			t.Fatalf("of %d bytes came back %d, %v", len(text), len(got.Version), err)
		}
	}
	header, err := s.Header()
	if err != nil || strings.Join(header["method"], "") != method || strings.Join(header["trace"], "") != "00-1-2-00" {
		t.Errorf("found %v, %v", header, err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	err = s.RecvMsg(&runtimeapi.VersionRequest{})
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "enough" || strings.Join(s.Trailer()["end"], "") != "of call" {
		t.Errorf("the call ended with %v, %v", err, s.Trailer())
	}
}

func TestWhatANewerCRISaysOfImagesIsKept(t *testing.T) {
	conn := serveNewer(t, "a")
	client := runtimeapi.NewImageServiceClient(conn)
	check := func(images []*runtimeapi.Image, id string, pinned bool) {
		t.Helper()
		if len(images) != 1 || images[0].Id != id || images[0].Pinned != pinned || !bytes.Equal(images[0].ProtoReflect().GetUnknown(), newField) {
			t.Errorf("expected image %s, pinned %t, with the new field; found %d images, %.200v", id, pinned, len(images), images)
		}
	}
	l, err := client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	check(l.Images, "a", true)
	s, err := client.StreamImages(t.Context(), &runtimeapi.StreamImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		check(m.Images, id, id == "a")
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	_, err = client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "trouble"}})
	if want := status.Error(codes.DataLoss, "the runtime's own words"); status.Code(err) != status.Code(want) || err.Error() != want.Error() {
		t.Errorf("found %v, expected the runtime's error", err)
	}
	// What is no request costs its caller the call.
	bad := frame("\xff")
	var answer frame
	if err := conn.Invoke(t.Context(), runtimeapi.ImageService_PullImage_FullMethodName, &bad, &answer, grpc.ForceCodecV2(rawCodec{})); status.Code(err) != codes.InvalidArgument {
		t.Errorf("found %v", err)
	}
}

// Garbage collection goes on beside a pod whose image the runtime cannot even look for, and stops where the runtime is in trouble.
func TestANameThatIsNonePinsNothing(t *testing.T) {
	for _, c := range []struct {
		pods   []string
		pinned string
	}{{[]string{"no name", "b?", "a"}, "a"}, {[]string{"no name", "trouble", "a"}, "ab"}} {
		client := runtimeapi.NewImageServiceClient(serveNewer(t, c.pods...))
		s, err := client.StreamImages(t.Context(), &runtimeapi.StreamImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		pinned := ""
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if m.Images[0].Pinned {
				pinned += m.Images[0].Id
			}
		}
		if pinned != c.pinned {
			t.Errorf("with pods of %q pinned are %q, expected %q", c.pods, pinned, c.pinned)
		}
	}
}

// What is shared by calls, the runtime's connection and the pulls, ends after them, also where the listener fails.
func TestNoCallRunsOnceTheServiceHasEnded(t *testing.T) {
	for name, byListener := range map[string]bool{"the process ends": false, "the listener fails": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := bufconn.Listen(1 << 16)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var over atomic.Bool
				served := make(chan error, 1)
				go func() {
					served <- serve(ctx, listener, func(_ any, call grpc.ServerStream) error {
						<-call.Context().Done()
						time.Sleep(time.Second) // what it still has to do
						over.Store(true)
						return nil
					})
				}()
				conn, err := grpc.NewClient("passthrough:", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/a/b"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the call runs
				if byListener {
					_ = listener.Close()
				} else {
					cancel()
				}
				if err := <-served; (err != nil) != byListener {
					t.Errorf("it ended with %v", err)
				}
				if !over.Load() {
					t.Error("a call runs on")
				}
			})
		})
	}
}

func TestAnAnswerThatCannotBeReadIsPassedOn(t *testing.T) {
	p := &pins{log: testLog(t)}
	for name, change := range map[string]edit{"list": p.list, "stream": p.stream, "status": p.status} {
		if got := change(t.Context(), frame("\xff")); string(got) != "\xff" {
			t.Errorf("%s: found %q", name, got)
		}
	}
}

func TestASocketThatCannotBeIsRefused(t *testing.T) {
	for _, path := range []string{"", "relative.sock", "/" + strings.Repeat("x", maxPath)} {
		if _, err := New(Config{Socket: path}, Deps{Memory: &notes{}}); err == nil || !strings.Contains(err.Error(), "expected an absolute path of at most 107 bytes") {
			t.Errorf("%q: found %v", path, err)
		}
	}
}
