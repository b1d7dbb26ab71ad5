package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A frame is an encoded message. Those that are passed on are not decoded, so fields and methods of a newer CRI go through.
type frame []byte

// rawCodec carries frames as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("expected a frame, found %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*f)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("expected a frame, found %T", v)
	}
	*f = data.Materialize()
	return nil
}

// outgoing is ctx with the metadata that came in, such as the ids of a trace. gRPC leaves out what is the connection's own.
func outgoing(ctx context.Context) context.Context {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		return metadata.NewOutgoingContext(ctx, md)
	}
	return ctx
}

// edit changes an encoded answer of the runtime on its way to the kubelet.
type edit func(context.Context, frame) frame

// pass relays one call of any shape. The error is the runtime's.
func pass(conn *grpc.ClientConn, method string, kubelet grpc.ServerStream, change edit) error {
	ctx, cancel := context.WithCancel(outgoing(kubelet.Context()))
	defer cancel()
	runtime, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		return err
	}
	// It ends with the kubelet's stream, which gRPC ends when this function has returned.
	go func() {
		for {
			var f frame
			if err := kubelet.RecvMsg(&f); err != nil {
				if errors.Is(err, io.EOF) {
					_ = runtime.CloseSend() // the answer says what is wrong
				} else {
					cancel()
				}
				return
			}
			if runtime.SendMsg(&f) != nil {
				return
			}
		}
	}()
	for first := true; ; first = false {
		var f frame
		err := runtime.RecvMsg(&f)
		if first {
			if header, err := runtime.Header(); err == nil {
				_ = kubelet.SetHeader(header) // nothing was sent yet
			}
		}
		if err != nil {
			kubelet.SetTrailer(runtime.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if change != nil {
			f = change(ctx, f)
		}
		if err := kubelet.SendMsg(&f); err != nil {
			return err
		}
	}
}

// answerUnary serves one call with one request and one answer itself.
func answerUnary[Q, A proto.Message](kubelet grpc.ServerStream, request Q, serve func(context.Context, Q) (A, error)) error {
	var f frame
	if err := kubelet.RecvMsg(&f); err != nil {
		return err
	}
	if err := proto.Unmarshal(f, request); err != nil {
		return status.Errorf(codes.InvalidArgument, "read %s: %v", request.ProtoReflect().Descriptor().Name(), err)
	}
	response, err := serve(kubelet.Context(), request)
	if err != nil {
		return err
	}
	if f, err = proto.Marshal(response); err != nil {
		return status.Errorf(codes.Internal, "write %s: %v", response.ProtoReflect().Descriptor().Name(), err)
	}
	return kubelet.SendMsg(&f)
}
