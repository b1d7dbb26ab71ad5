package mapper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// schema is testdata/dmi.proto.
type schema struct {
	manager, mapper protoreflect.ServiceDescriptor
}

var foreignSchema = sync.OnceValues(func() (schema, error) {
	data, err := os.ReadFile("testdata/dmi.binpb")
	if err != nil {
		return schema{}, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return schema{}, err
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return schema{}, err
	}
	file, err := files.FindFileByPath("dmi.proto")
	if err != nil {
		return schema{}, err
	}
	return schema{file.Services().ByName("DeviceManagerService"), file.Services().ByName("DeviceMapperService")}, nil
})

// foreign is a mapper that shares no code with the edge and is as particular as those of KubeEdge: it takes no device without
// its model, no news by registration, no update of a model that it lacks, and falls over a second removal.
type foreign struct {
	t       *testing.T
	address string
	server  *grpc.Server

	mu      sync.Mutex
	calls   []string
	devices map[string]string // its last desired values, property=value
	models  map[string]bool
	removed map[string]bool
	hook    func(method, id string) error // may block
	crashed bool
}

// listenForeign starts a mapper that listens at address.
func listenForeign(t *testing.T, address string) *foreign {
	t.Helper()
	f := &foreign{t: t, address: address, devices: map[string]string{}, models: map[string]bool{}, removed: map[string]bool{}}
	f.start()
	return f
}

func (f *foreign) start() {
	f.t.Helper()
	s, err := foreignSchema()
	if err != nil {
		f.t.Fatal(err)
	}
	desc := grpc.ServiceDesc{ServiceName: string(s.mapper.FullName()), HandlerType: (*any)(nil)}
	for i := range s.mapper.Methods().Len() {
		method := s.mapper.Methods().Get(i)
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: string(method.Name()),
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in := dynamicpb.NewMessage(method.Input())
				if err := decode(in); err != nil {
					return nil, err
				}
				return dynamicpb.NewMessage(method.Output()), f.take(string(method.Name()), in)
			}})
	}
	l, err := net.Listen("unix", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&desc, f)
	f.server = server
	go func() { _ = server.Serve(l) }() // ends with stop
	f.t.Cleanup(server.Stop)
}

func (f *foreign) stop() { f.server.Stop() }

func text(m protoreflect.Message, path ...string) string {
	for _, name := range path[:len(path)-1] {
		m = m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name))).Message()
	}
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(path[len(path)-1]))).String()
}

func field(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

// desires lists the desired values of a device.
func desires(d protoreflect.Message) string {
	var out []string
	properties := field(field(d, "spec").Message(), "properties").List()
	for i := range properties.Len() {
		p := properties.Get(i).Message()
		out = append(out, text(p, "name")+"="+text(p, "desired", "value"))
	}
	return strings.Join(out, " ")
}

// take is one call by the edge.
func (f *foreign) take(method string, in protoreflect.Message) error {
	var id, model, wants string
	switch {
	case in.Descriptor().Fields().ByName("device") != nil:
		d := field(in, "device").Message()
		id, wants = text(d, "namespace")+"/"+text(d, "name"), desires(d)
		model = text(d, "namespace") + "/" + text(d, "spec", "deviceModelReference")
	case in.Descriptor().Fields().ByName("model") != nil:
		id = text(in, "model", "namespace") + "/" + text(in, "model", "name")
	case in.Descriptor().Fields().ByName("modelName") != nil:
		id = text(in, "modelNamespace") + "/" + text(in, "modelName")
	default:
		id = text(in, "deviceNamespace") + "/" + text(in, "deviceName")
	}
	f.mu.Lock()
	f.calls = append(f.calls, method+" "+id)
	hook := f.hook
	f.mu.Unlock()
	if hook != nil {
		if err := hook(method, id); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apply(method, id, model, wants)
}

func (f *foreign) apply(method, id, model, wants string) error {
	_, has := f.devices[id]
	switch method {
	case "RegisterDevice", "UpdateDevice":
		if method == "RegisterDevice" && has {
			return nil
		}
		if !f.models[model] {
			return fmt.Errorf("deviceModel %s not found", model)
		}
		f.devices[id] = wants
	case "RemoveDevice":
		if !has && f.removed[id] {
			f.crashed = true
		}
		if !has {
			return errors.New("can not find device " + id)
		}
		delete(f.devices, id)
		f.removed[id] = true
	case "GetDevice":
		if !has {
			return fmt.Errorf("device %s not found", id)
		}
	case "CreateDeviceModel":
		f.models[id] = true
	case "UpdateDeviceModel":
		if !f.models[id] {
			return errors.New("not existed")
		}
	case "RemoveDeviceModel":
		delete(f.models, id)
	}
	return nil
}

// state is what the mapper knows, in order.
func (f *foreign) state() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for id, wants := range f.devices {
		out = append(out, strings.TrimSpace(id+" "+wants))
	}
	for id := range f.models {
		out = append(out, "model "+id)
	}
	if f.crashed {
		out = append(out, "CRASHED")
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// heard returns the calls so far and forgets them.
func (f *foreign) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

// heardSoFar leaves the calls for heard.
func (f *foreign) heardSoFar() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *foreign) on(hook func(method, id string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

// call makes one call to the edge, with a request and a response as JSON.
func callEdge(ctx context.Context, socket, method, request string) (string, error) {
	s, err := foreignSchema()
	if err != nil {
		return "", err
	}
	d := s.manager.Methods().ByName(protoreflect.Name(method))
	in, out := dynamicpb.NewMessage(d.Input()), dynamicpb.NewMessage(d.Output())
	if err := protojson.Unmarshal([]byte(request), in); err != nil {
		return "", err
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.Invoke(ctx, "/v1beta1.DeviceManagerService/"+method, in, out, grpc.WaitForReady(true)); err != nil {
		return "", err
	}
	text, err := protojson.Marshal(out)
	return string(text), err
}
