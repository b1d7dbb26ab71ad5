package v1beta1

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// row is a message as docs/dmi.md has it. What has no type is a text.
func row(m protoreflect.MessageDescriptor) string {
	var fields []string
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		kind := typeOf(f)
		if kind != "" {
			kind += " "
		}
		fields = append(fields, fmt.Sprintf("`%s` %s%d", f.Name(), kind, f.Number()))
	}
	said := strings.Join(fields, ", ")
	if said == "" {
		said = "nothing"
	}
	return fmt.Sprintf("| `%s` | %s |", m.Name(), said)
}

func typeOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		value := typeOf(f.MapValue())
		if value == "" {
			value = "text"
		}
		return "map of " + value
	case f.Kind() == protoreflect.MessageKind:
		name := string(f.Message().Name())
		if f.IsList() {
			name = "list of " + name
		}
		return name
	case f.Kind() == protoreflect.StringKind && f.IsList():
		return "list"
	case f.Kind() == protoreflect.StringKind:
		return ""
	}
	return f.Kind().String()
}

// Who writes a mapper without our code has only the page to go by.
func TestThePageHasEveryMessageAndCall(t *testing.T) {
	data, err := os.ReadFile("../../../docs/dmi.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	messages := File_apis_dmi_v1beta1_messages_proto.Messages()
	for i := range messages.Len() {
		if want := row(messages.Get(i)); !strings.Contains(page, want+"\n") {
			t.Errorf("expected the line\n%s", want)
		}
	}
	services := File_apis_dmi_v1beta1_services_proto.Services()
	for i := range services.Len() {
		s := services.Get(i)
		if !strings.Contains(page, "`"+string(s.FullName())+"`") {
			t.Errorf("expected the service %s", s.FullName())
		}
		for j := range s.Methods().Len() {
			if name := string(s.Methods().Get(j).Name()); !strings.Contains(page, "| `"+name+"` |") {
				t.Errorf("expected a line of the call %s", name)
			}
		}
	}
}
