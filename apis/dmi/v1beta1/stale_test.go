package v1beta1

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	protoMessage = regexp.MustCompile(`(?m)^message (\w+) \{`)
	protoField   = regexp.MustCompile(`(?m)^  (repeated )?(map<string, )?([\w.]+)>? (\w+) = (\d+);`)
	protoCall    = regexp.MustCompile(`(?m)^  rpc (\w+)\(`)
)

// TestGeneratedCodeIsOfTheProtoFiles fails where a .proto file was changed and `make generate` forgotten.
func TestGeneratedCodeIsOfTheProtoFiles(t *testing.T) {
	source := read(t, "messages.proto")
	var inFile []string
	heads := protoMessage.FindAllStringSubmatchIndex(source, -1)
	for i, head := range heads {
		end := len(source)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		var fields []string
		for _, f := range protoField.FindAllStringSubmatch(source[head[1]:end], -1) {
			kind := strings.TrimPrefix(f[3], "google.protobuf.")
			switch {
			case f[1] != "":
				kind = "[]" + kind
			case f[2] != "":
				kind = "map " + kind
			}
			fields = append(fields, f[4]+" "+f[5]+" "+kind)
		}
		inFile = append(inFile, strings.TrimSpace(source[head[2]:head[3]]+": "+strings.Join(fields, ", ")))
	}
	var inCode []string
	for i := range File_apis_dmi_v1beta1_messages_proto.Messages().Len() {
		inCode = append(inCode, said(File_apis_dmi_v1beta1_messages_proto.Messages().Get(i)))
	}
	if !slices.Equal(inFile, inCode) {
		t.Errorf("messages.proto and its generated code differ: run make generate\nfile: %s\ncode: %s", strings.Join(inFile, "\n      "), strings.Join(inCode, "\n      "))
	}
	var inServices, generated []string
	for _, m := range protoCall.FindAllStringSubmatch(read(t, "services.proto"), -1) {
		inServices = append(inServices, m[1])
	}
	for _, m := range DeviceManagerService_ServiceDesc.Methods {
		generated = append(generated, m.MethodName)
	}
	for _, m := range DeviceMapperService_ServiceDesc.Methods {
		generated = append(generated, m.MethodName)
	}
	if !slices.Equal(inServices, generated) {
		t.Errorf("services.proto has %v, its generated code %v: run make generate", inServices, generated)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
