package v1beta1

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"
)

// said puts a message's descriptor into the words of facts.
func said(m protoreflect.MessageDescriptor) string {
	var fields []string
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := func(f protoreflect.FieldDescriptor) string {
			if f.Message() != nil {
				return string(f.Message().Name())
			}
			return f.Kind().String()
		}
		what := kind(f)
		switch {
		case f.IsMap() && f.MapKey().Kind() == protoreflect.StringKind:
			what = "map " + kind(f.MapValue())
		case f.IsList():
			what = "[]" + what
		}
		fields = append(fields, fmt.Sprintf("%s %d %s", f.Name(), f.Number(), what))
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s", m.Name(), strings.Join(fields, ", ")))
}

// TestMessagesAreThoseThatMappersKnow fails where a field is renamed, renumbered, retyped, added or lost.
func TestMessagesAreThoseThatMappersKnow(t *testing.T) {
	want := strings.Split(strings.TrimSpace(facts), "\n")
	var got []string
	for i := range File_apis_dmi_v1beta1_messages_proto.Messages().Len() {
		got = append(got, said(File_apis_dmi_v1beta1_messages_proto.Messages().Get(i)))
	}
	slices.Sort(want)
	slices.Sort(got)
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("mappers know  %s", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("the code says %s", g)
		}
	}
}

// TestCallsHaveThePathsThatMappersKnow: a call's path is /PACKAGE.SERVICE/METHOD.
func TestCallsHaveThePathsThatMappersKnow(t *testing.T) {
	services := File_apis_dmi_v1beta1_services_proto.Services()
	if services.Len() != len(calls) {
		t.Errorf("%d services, expected %d", services.Len(), len(calls))
	}
	for i := range services.Len() {
		s := services.Get(i)
		var got []string
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			got = append(got, string(m.Name()))
			if in, out := string(m.Input().Name()), string(m.Output().Name()); in != string(m.Name())+"Request" || out != string(m.Name())+"Response" {
				t.Errorf("%s takes %s and returns %s", m.Name(), in, out)
			}
			if m.IsStreamingClient() || m.IsStreamingServer() {
				t.Errorf("%s streams", m.Name())
			}
		}
		if !slices.Equal(got, calls[string(s.FullName())]) {
			t.Errorf("%s has %v, expected %v", s.FullName(), got, calls[string(s.FullName())])
		}
	}
	if got := DeviceManagerService_MapperRegister_FullMethodName; got != "/v1beta1.DeviceManagerService/MapperRegister" {
		t.Errorf("MapperRegister is called at %s", got)
	}
}

// TestOneProcessHoldsThisAndTheDevicePlugins: both have a message Device, and edgecore links both. A conflict would end
// this process before the test began.
func TestOneProcessHoldsThisAndTheDevicePlugins(t *testing.T) {
	theirs, ours := (&deviceplugin.Device{}).ProtoReflect().Descriptor().FullName(), (&Device{}).ProtoReflect().Descriptor().FullName()
	if theirs != "v1beta1.Device" || ours == theirs {
		t.Errorf("the device plugin's Device is %s, expected v1beta1.Device; ours is %s, expected another name", theirs, ours)
	}
}

// scalars are the types of facts that are no messages.
var scalars = map[string]descriptorpb.FieldDescriptorProto_Type{
	"string": descriptorpb.FieldDescriptorProto_TYPE_STRING, "bytes": descriptorpb.FieldDescriptorProto_TYPE_BYTES,
	"bool": descriptorpb.FieldDescriptorProto_TYPE_BOOL, "int32": descriptorpb.FieldDescriptorProto_TYPE_INT32,
	"int64": descriptorpb.FieldDescriptorProto_TYPE_INT64,
}

// a mapper's own idea of the interface: descriptors in package v1beta1, made from facts alone.
func foreign(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("api.proto"), Package: proto.String("v1beta1"), Syntax: proto.String("proto3"),
		Dependency: []string{"google/protobuf/any.proto"},
	}
	for line := range strings.Lines(strings.TrimSpace(facts)) {
		name, fields, _ := strings.Cut(strings.TrimSpace(line), ":")
		m := &descriptorpb.DescriptorProto{Name: &name}
		for field := range strings.SplitSeq(fields, ",") {
			if words := strings.Fields(field); len(words) > 0 {
				addField(t, m, words)
			}
		}
		file.MessageType = append(file.MessageType, m)
	}
	d, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// addField adds what the words of facts say: name, number and type.
func addField(t *testing.T, m *descriptorpb.DescriptorProto, words []string) {
	t.Helper()
	var number int32
	if _, err := fmt.Sscan(words[1], &number); err != nil {
		t.Fatal(err)
	}
	typed := func(f *descriptorpb.FieldDescriptorProto, what string) *descriptorpb.FieldDescriptorProto {
		switch scalar, ok := scalars[what]; {
		case ok:
			f.Type = scalar.Enum()
		case what == "Any":
			f.TypeName = proto.String(".google.protobuf.Any")
		default:
			f.TypeName = proto.String(".v1beta1." + what)
		}
		if f.TypeName != nil {
			f.Type = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum()
		}
		return f
	}
	optional, repeated := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	f := &descriptorpb.FieldDescriptorProto{Name: &words[0], Number: &number, Label: optional}
	what, isList := strings.CutPrefix(words[2], "[]")
	switch {
	case words[2] == "map":
		entry := &descriptorpb.DescriptorProto{
			Name: proto.String(strings.ToUpper(words[0][:1]) + words[0][1:] + "Entry"), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			Field: []*descriptorpb.FieldDescriptorProto{
				typed(&descriptorpb.FieldDescriptorProto{Name: proto.String("key"), Number: proto.Int32(1), Label: optional}, "string"),
				typed(&descriptorpb.FieldDescriptorProto{Name: proto.String("value"), Number: proto.Int32(2), Label: optional}, words[3]),
			},
		}
		m.NestedType = append(m.NestedType, entry)
		f.Label = repeated
		typed(f, m.GetName()+"."+entry.GetName())
	case isList:
		f.Label = repeated
		typed(f, what)
	default:
		typed(f, what)
	}
	m.Field = append(m.Field, f)
}

// fill sets every field of m, so that a field that the other side lacks shows.
func fill(rt *rapid.T, m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.IsMap():
			value := m.NewField(f)
			entry := value.Map().NewValue()
			if f.MapValue().Message() != nil {
				fill(rt, entry.Message())
			} else {
				entry = protoreflect.ValueOfString(rapid.String().Draw(rt, "value"))
			}
			value.Map().Set(protoreflect.ValueOfString(rapid.String().Draw(rt, "key")).MapKey(), entry)
			m.Set(f, value)
		case f.IsList():
			list := m.NewField(f)
			element := list.List().NewElement()
			if f.Message() != nil {
				fill(rt, element.Message())
			} else {
				element = scalar(rt, f)
			}
			list.List().Append(element)
			m.Set(f, list)
		case f.Message() != nil:
			fill(rt, m.Mutable(f).Message())
		default:
			m.Set(f, scalar(rt, f))
		}
	}
}

func scalar(rt *rapid.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(rt, "bytes"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32Min(1).Draw(rt, "int32"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64Min(1).Draw(rt, "int64"))
	default:
		return protoreflect.ValueOfString(rapid.StringN(1, 9, -1).Draw(rt, "string"))
	}
}

// TestAMapperOfItsOwnUnderstandsEveryMessage sends each message, with every field set, through a mapper that knows only
// facts, and back: nothing is unknown to it, nothing is lost.
func TestAMapperOfItsOwnUnderstandsEveryMessage(t *testing.T) {
	theirs := foreign(t).Messages()
	ours := File_apis_dmi_v1beta1_messages_proto.Messages()
	rapid.Check(t, func(rt *rapid.T) {
		for i := range ours.Len() {
			sent := dynamicpb.NewMessage(ours.Get(i))
			fill(rt, sent)
			data, err := proto.Marshal(sent)
			if err != nil {
				rt.Fatal(err)
			}
			there := dynamicpb.NewMessage(theirs.ByName(ours.Get(i).Name()))
			if err := proto.Unmarshal(data, there); err != nil {
				rt.Fatalf("%s: %v", ours.Get(i).Name(), err)
			}
			if name, unknown := unknownIn(there); unknown {
				rt.Fatalf("%s: the mapper does not know a field of %s", ours.Get(i).Name(), name)
			}
			if data, err = proto.Marshal(there); err != nil {
				rt.Fatal(err)
			}
			back := dynamicpb.NewMessage(ours.Get(i))
			if err := proto.Unmarshal(data, back); err != nil {
				rt.Fatal(err)
			}
			if !proto.Equal(sent, back) {
				rt.Fatalf("sent %v, came back as %v", sent, back)
			}
		}
	})
}

// unknownIn finds a message with unknown fields in m.
func unknownIn(m protoreflect.Message) (name protoreflect.FullName, found bool) {
	if len(m.GetUnknown()) > 0 {
		return m.Descriptor().FullName(), true
	}
	visit := func(v protoreflect.Value) {
		if !found {
			name, found = unknownIn(v.Message())
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { visit(v); return !found })
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				visit(v.List().Get(i))
			}
		case f.Message() != nil && !f.IsMap():
			visit(v)
		}
		return !found
	})
	return name, found
}

// FuzzMessages: what a mapper sends is parsed or refused, and what was parsed can be sent on.
func FuzzMessages(f *testing.F) {
	seed, err := proto.Marshal(&MapperRegisterResponse{DeviceList: []*Device{{Name: "d", Spec: &DeviceSpec{Protocol: &ProtocolConfig{
		ConfigData: &CustomizedValue{Data: map[string]*anypb.Any{"k": {TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: []byte{0x0a, 1, 'v'}}}},
	}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []proto.Message{&MapperRegisterRequest{}, &MapperRegisterResponse{}, &ReportDeviceStatusRequest{}, &ReportDeviceStatesRequest{}, &GetDeviceResponse{}} {
			if proto.Unmarshal(data, m) != nil {
				continue
			}
			if _, err := proto.Marshal(m); err != nil {
				t.Errorf("%T was read and cannot be written: %v", m, err)
			}
		}
	})
}
