package v1alpha1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const edgeHead = "apiVersion: config.tether.io/v1alpha1\nkind: EdgeCore\n"
const edgeMin = edgeHead + "nodeName: edge-1\ncloud: {servers: [\"10.0.0.1:10000\"]}\n"
const cloudHead = "apiVersion: config.tether.io/v1alpha1\nkind: CloudCore\n"

func TestDefaultsAreTheEmptyFile(t *testing.T) {
	got, err := DecodeCloudCore([]byte(cloudHead))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultCloudCore(), got); d != "" {
		t.Errorf("an empty CloudCore file differs from the defaults (-defaults +file):\n%s", d)
	}
	edge, err := DecodeEdgeCore([]byte(edgeMin))
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultEdgeCore()
	want.NodeName, want.Cloud.Servers = "edge-1", []string{"10.0.0.1:10000"}
	if d := cmp.Diff(want, edge); d != "" {
		t.Errorf("a minimal EdgeCore file differs from the defaults (-defaults +file):\n%s", d)
	}
}

func TestPrintedDefaultsReadBack(t *testing.T) {
	b, err := Marshal(DefaultCloudCore())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeCloudCore(b); err != nil || !cmp.Equal(got, DefaultCloudCore()) {
		t.Errorf("printed defaults read back as %+v, %v:\n%s", got, err, b)
	}
	want := DefaultEdgeCore()
	want.NodeName, want.Cloud.Servers = "edge-1", []string{"hub.example:10000"}
	want.Kubelet.RegisterWithTaints = []Taint{{Key: "edge", Effect: "NoSchedule"}}
	if b, err = Marshal(want); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeEdgeCore(b); err != nil || !cmp.Equal(got, want) {
		t.Errorf("printed configuration reads back as %+v, %v:\n%s", got, err, b)
	}
}

// Every field must appear in --print-defaults, or an operator cannot learn that it exists.
func TestPrintedDefaultsShowEveryField(t *testing.T) {
	for _, c := range []any{DefaultCloudCore(), DefaultEdgeCore()} {
		b, err := Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var visit func(reflect.Type)
		visit = func(typ reflect.Type) {
			for i := range typ.NumField() {
				f := typ.Field(i)
				if n := name(f); n != "" && !strings.Contains(string(b), n+":") {
					t.Errorf("%s: field %s is missing from the printed defaults", typ, n)
				}
				if f.Type.Kind() == reflect.Struct {
					visit(f.Type)
				}
			}
		}
		visit(reflect.TypeOf(c).Elem())
	}
}

func paths(t *testing.T, err error) []string {
	t.Helper()
	var f Faults
	if !errors.As(err, &f) {
		t.Fatalf("expected Faults, got %v", err)
	}
	var out []string
	for _, x := range f {
		out = append(out, x.Path)
	}
	return out
}

func TestFiveFaultsAreFive(t *testing.T) {
	_, err := DecodeEdgeCore([]byte(edgeHead + `
nodeName: Edge_1
cloud: {servers: []}
kubelet:
  cgroupDriver: systemdd
  maxPods: many
sotre: {copyInterval: 1h}
`))
	got := paths(t, err)
	slices.Sort(got)
	want := []string{"cloud.servers", "kubelet.cgroupDriver", "kubelet.maxPods", "nodeName", "sotre"}
	if !slices.Equal(got, want) {
		t.Errorf("faults at %q, expected %q\n%v", got, want, err)
	}
	if !strings.HasPrefix(err.Error(), "5 faults\n") || strings.Count(err.Error(), "\n") != 5 {
		t.Errorf("expected a count and one line for each fault, got:\n%v", err)
	}
	_, err = DecodeCloudCore([]byte(`
apiVersion: v1
kind: EdgeCore
kubeconfig: admin.kubeconfig
hub: {webSocketPort: 70000, advertiseAddresses: ["hub:10000"], coalesce: 5, maxHandshakes: 0}
`))
	got = paths(t, err)
	slices.Sort(got)
	want = []string{"apiVersion", "hub.advertiseAddresses[0]", "hub.coalesce", "hub.maxHandshakes", "hub.webSocketPort", "kind", "kubeconfig"}
	if !slices.Equal(got, want) {
		t.Errorf("faults at %q, expected %q\n%v", got, want, err)
	}
}

func TestEachEdgeFaultIsFoundAlone(t *testing.T) {
	for path, yaml := range map[string]string{
		"dataDir":                            "dataDir: data",
		"cloud.servers[1]":                   `cloud: {servers: ["a:1", "a"]}`,
		"cloud.caFile":                       `cloud: {servers: ["a:1"], caFile: ""}`,
		"cloud.certFile":                     `cloud: {servers: ["a:1"], certFile: x}`,
		"cloud.keyFile":                      `cloud: {servers: ["a:1"], keyFile: x}`,
		"cloud.protocol":                     `cloud: {servers: ["a:1"], protocol: tcp}`,
		"cloud.quicPort":                     `cloud: {servers: ["a:1"], protocol: quic, quicPort: 0}`,
		"cloud.proxy":                        `cloud: {servers: ["a:1"], proxy: "ftp://a"}`,
		"cloud.pingInterval":                 `cloud: {servers: ["a:1"], pingInterval: 1h}`,
		"api.bindAddress":                    `api: {bindAddress: "0.0.0.0:10550"}`,
		"metrics.bindAddress":                `metrics: {bindAddress: "127.0.0.1"}`,
		"log.level":                          "log: {level: loud}",
		"log.format":                         "log: {format: xml}",
		"devices.mqtt.usersSecret":           "devices: {mqtt: {usersSecret: {name: users}}}",
		"devices.mqtt.users[0].passwordHash": "devices: {mqtt: {users: [{name: ann, passwordHash: hunter2}]}}",
		"store.freeSpaceFloor":               `store: {freeSpaceFloor: "2Ti"}`,
		"store.eventQuota":                   `store: {eventQuota: lots}`,
		"store.copyInterval":                 `store: {copyInterval: 1ms}`,
		"store.writeBudget":                  `store: {writeBudget: -1}`,
		"autonomy.atLeast":                   `autonomy: {atLeast: 1s}`,
		"devices.http.bindAddress":           `devices: {http: {bindAddress: "0.0.0.0:9060"}}`,
		"devices.http.timeout":               `devices: {http: {timeout: 301s}}`,
		"devices.http.tls.bindAddress":       `devices: {http: {tls: {bindAddress: "9061", certFile: /c, keyFile: /k}}}`,
		"devices.http.tls.certFile":          `devices: {http: {tls: {bindAddress: "0.0.0.0:9061", keyFile: /k}}}`,
		"devices.http.tls.keyFile":           `devices: {http: {tls: {bindAddress: "0.0.0.0:9061", certFile: /c}}}`,
		"devices.mqtt.tls.certFile":          `devices: {mqtt: {tls: {bindAddress: "0.0.0.0:8883", keyFile: /k}}}`,
		"store.tpm":                          `store: {tpm: tpmrm0}`,
		"kubelet.containerRuntimeEndpoint":   "kubelet: {containerRuntimeEndpoint: /run/x.sock}",
		"kubelet.imageServiceEndpoint":       "kubelet: {imageServiceEndpoint: tcp://x}",
		"kubelet.rootDir":                    "kubelet: {rootDir: x}",
		"kubelet.port":                       "kubelet: {port: 0}",
		"kubelet.cgroupRoot":                 "kubelet: {cgroupRoot: x}",
		"kubelet.maxPods":                    "kubelet: {maxPods: 0}",
		"kubelet.staticPodPath":              "kubelet: {staticPodPath: x}",
		"kubelet.nodeIP":                     "kubelet: {nodeIP: 10.0.0.256}",
		"kubelet.nodeLabels[node-role.kubernetes.io/edge]": `kubelet: {nodeLabels: {node-role.kubernetes.io/edge: ""}}`,
		"kubelet.nodeLabels[a b]":                          `kubelet: {nodeLabels: {a b: ""}}`,
		"kubelet.nodeLabels[a]":                            `kubelet: {nodeLabels: {a: "b c"}}`,
		"kubelet.registerWithTaints[0].effect":             `kubelet: {registerWithTaints: [{key: a, effect: Never}]}`,
		"kubelet.registerWithTaints[0].key":                `kubelet: {registerWithTaints: [{effect: NoExecute}]}`,
		"kubelet.registerWithTaints[0].value":              `kubelet: {registerWithTaints: [{key: a, value: "b c", effect: NoExecute}]}`,
		"kubelet.registerWithTaints":                       `kubelet: {registerWithTaints: edge}`,
		"kubelet.clusterDNS[0]":                            `kubelet: {clusterDNS: [dns]}`,
		"kubelet.clusterDomain":                            `kubelet: {clusterDomain: ""}`,
		"kubelet.evictionHard[memory.free]":                `kubelet: {evictionHard: {memory.free: 1Mi}}`,
		"kubelet.evictionHard[memory.available]":           `kubelet: {evictionHard: {memory.available: 120%}}`,
		"kubelet.evictionPressureTransitionPeriod":         `kubelet: {evictionPressureTransitionPeriod: 0s}`,
		"kubelet.imageGCHighThresholdPercent":              `kubelet: {imageGCHighThresholdPercent: 101}`,
		"kubelet.imageGCLowThresholdPercent":               `kubelet: {imageGCLowThresholdPercent: 85}`,
		"kubelet.imageMinimumGCAge":                        `kubelet: {imageMinimumGCAge: -1s}`,
		"images.socket":                                    `images: {socket: image.sock}`,
		"images.patience":                                  `images: {patience: 0s}`,
		"images.maxPulls":                                  `images: {maxPulls: 0}`,
		"kubelet":                                          `kubelet: none`,
		"kubelet.MaxPods":                                  `kubelet: {MaxPods: 5}`,
	} {
		// Later keys of the same name would be a duplicate, so the base leaves out what the case sets.
		base := edgeHead + "nodeName: edge-1\n"
		if !strings.HasPrefix(yaml, "cloud:") {
			base = edgeMin
		}
		if _, err := DecodeEdgeCore([]byte(base + yaml)); err == nil {
			t.Errorf("%s: accepted", yaml)
		} else if got := paths(t, err); !slices.Equal(got, []string{path}) {
			t.Errorf("%s: faults at %q, expected %q\n%v", yaml, got, path, err)
		}
	}
}

// Users are judged where a port asks for them, whatever the mode of MQTT, and no fault shows what should have been a hash.
func TestUsersAreJudgedWhereTheyAreUsed(t *testing.T) {
	const (
		bad    = "users: [{name: ann, passwordHash: hunter2}]"
		good   = "users: [{name: ann, passwordHash: $2y$05$7dQ8cVYyJm3Y8yq2bK0u0eY8l2J6l6v2r4b0mJ8y5m0q8u3w2x4yS}]"
		secret = "usersSecret: {namespace: plant, name: users}"
		off    = "mode: 'off'"
		there  = "mode: external, server: {url: 'tcp://a:1883'}"
	)
	const hashFault, secretFault = "devices.mqtt.users[0].passwordHash", "devices.mqtt.usersSecret"
	for _, c := range []struct {
		mqtt, http string
		faults     []string
	}{
		{"mode: internal, " + good, "bindAddress: ''", nil},
		{"mode: internal, " + bad, "bindAddress: ''", []string{hashFault}},
		{off + ", " + bad, "timeout: 30s", []string{hashFault}},
		{there + ", " + bad, "bindAddress: '', tls: {bindAddress: '0.0.0.0:9061', certFile: /c, keyFile: /k}", []string{hashFault}},
		{off + ", " + bad, "bindAddress: ''", nil},
		{there + ", " + bad, "bindAddress: ''", nil},
		{off + ", " + secret, "timeout: 30s", nil},
		{off + ", " + secret, "bindAddress: ''", []string{secretFault}},
		{off + ", usersSecret: {name: users}", "timeout: 30s", []string{secretFault}},
		{there + ", " + secret, "timeout: 30s", []string{secretFault}},
	} {
		yaml := fmt.Sprintf("devices: {mqtt: {%s}, http: {%s}}", c.mqtt, c.http)
		_, err := DecodeEdgeCore([]byte(edgeMin + yaml))
		if c.faults == nil {
			if err != nil {
				t.Errorf("%s: %v", yaml, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: accepted", yaml)
		} else if got := paths(t, err); !slices.Equal(got, c.faults) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: faults at %q, expected %q\n%v", yaml, got, c.faults, err)
		}
	}
}

func TestProfilesAreForLoopbackOnly(t *testing.T) {
	const open = "metrics: {bindAddress: '0.0.0.0:10004', profiling: %t}"
	for _, profiling := range []bool{false, true} {
		if _, err := DecodeCloudCore([]byte(cloudHead + fmt.Sprintf(open, profiling))); (err != nil) != profiling {
			t.Errorf("profiling %t on every address: %v", profiling, err)
		}
	}
}

func TestEachCloudFaultIsFoundAlone(t *testing.T) {
	for path, yaml := range map[string]string{
		"hub.bindAddress":      "hub: {bindAddress: everywhere}",
		"hub.quicPort":         "hub: {quicPort: 70000}",
		"join.port":            "join: {port: 0}",
		"join.certificateLife": "join: {certificateLife: 1s}",
		"hub.keyFile":          "hub: {keyFile: x}",
		"hub.clientCAFile":     "hub: {clientCAFile: x}",
		"hub.maxHandshakes":    "hub: {maxHandshakes: 0}",
		"hub.handshakeTimeout": "hub: {handshakeTimeout: 1ms}",
		"hub.maxSessions":      "hub: {maxSessions: -1}",
		"hub.maxInFlightBytes": "hub: {maxInFlightBytes: 1Ki}",
		"hub.coalesce":         "hub: {coalesce: -1s}",
		"impersonation":        "impersonation: root",
		"lease.renewInterval":  "lease: {renewInterval: 21s}",
		"lease.duration":       "lease: {duration: 40500ms}",
		"metrics.bindAddress":  "metrics: {bindAddress: ':10004'}",
		"log.level":            "log: {level: 3}",
	} {
		if _, err := DecodeCloudCore([]byte(cloudHead + yaml)); err == nil {
			t.Errorf("%s: accepted", yaml)
		} else if got := paths(t, err); !slices.Equal(got, []string{path}) {
			t.Errorf("%s: faults at %q, expected %q\n%v", yaml, got, path, err)
		}
	}
}

func TestValuesReachTheirFields(t *testing.T) {
	c, err := DecodeEdgeCore([]byte(edgeMin + `
kubelet:
  evictionHard: {memory.available: 50Mi}
  nodeLabels: {site: north, node.kubernetes.io/instance-type: gateway}
store: {freeSpaceFloor: 1048576, eventQuota: 2MiB, copyInterval: 90m, writeBudget: 5MiB}
metrics: null
`))
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(c.Kubelet.EvictionHard, map[string]string{"memory.available": "50Mi"}) {
		t.Errorf("evictionHard = %v: a file's map must replace the default one", c.Kubelet.EvictionHard)
	}
	if c.Store.FreeSpaceFloor != 1<<20 || c.Store.EventQuota != 2<<20 || c.Store.CopyInterval.Std() != 90*time.Minute || c.Store.WriteBudget != 5<<20 {
		t.Errorf("store = %+v", c.Store)
	}
	if c.Metrics != DefaultEdgeCore().Metrics || c.Kubelet.NodeLabels["site"] != "north" {
		t.Errorf("metrics %+v, labels %v", c.Metrics, c.Kubelet.NodeLabels)
	}
}

func TestUnreadableFilesSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	for want, data := range map[string]string{
		"several":                   edgeMin + "---\n" + edgeMin,
		"already set":               edgeMin + "nodeName: again\n",
		"not valid YAML":            "a: [",
		"fields at the top level":   "just text",
		"expected config.tether.io": "",
	} {
		p := filepath.Join(dir, "edgecore.yaml")
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadEdgeCore(p); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), p) {
			t.Errorf("%q: %v, expected it to say %q and the path", data, err, want)
		}
	}
	if _, err := LoadEdgeCore(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "--print-defaults") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := LoadCloudCore(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("directory: %v", err)
	}
	if _, err := LoadCloudCore(""); err == nil || !strings.Contains(err.Error(), "--config") {
		t.Errorf("no path: %v", err)
	}
	if _, err := DecodeEdgeCore([]byte("---\n# one document\n" + edgeMin + "---\n")); err != nil {
		t.Errorf("separators around one document: %v", err)
	}
}

func TestUnitsKeepTheirValue(t *testing.T) {
	for _, d := range []Duration{0, Duration(250 * time.Millisecond), Duration(time.Hour), Duration(90 * time.Minute), Duration(10 * time.Second), Duration(time.Hour + time.Second)} {
		b, _ := d.MarshalJSON()
		var got Duration
		if err := got.UnmarshalJSON(b); err != nil || got != d {
			t.Errorf("%d written as %s, read as %d, %v", d, b, got, err)
		}
	}
	for s, want := range map[string]Bytes{"0": 0, `"64Ki"`: 64 << 10, `"1MiB"`: 1 << 20, `"1Ti"`: 1 << 40, "1023": 1023} {
		var got Bytes
		if err := got.UnmarshalJSON([]byte(s)); err != nil || got != want {
			t.Errorf("%s read as %d, %v; expected %d", s, got, err, want)
		}
	}
	for _, s := range []string{`"-1"`, `"1K"`, `"9999999Ti"`, `""`, `"Mi"`, "1.5", "true"} {
		var got Bytes
		if err := got.UnmarshalJSON([]byte(s)); err == nil {
			t.Errorf("%s was accepted as %d bytes", s, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(edgeMin))
	f.Add([]byte(edgeHead + "kubelet: {registerWithTaints: [{key: a}], evictionHard: {a: 1}}"))
	f.Add([]byte("[1, 2]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeEdgeCore(data)
		if err == nil && c.Validate() != nil {
			t.Errorf("accepted, yet not valid: %v", c.Validate())
		}
		if _, err := DecodeCloudCore(data); err != nil && err.Error() == "" {
			t.Error("an error without a message")
		}
	})
}
