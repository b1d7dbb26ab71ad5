package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// meterCount is how many devices report by MQTT, each reportEvery.
const (
	meterCount  = 3
	reportEvery = 100 * time.Millisecond
)

const models = `
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: pump}
spec: {protocol: virtual, properties: [{name: setpoint, type: INT, accessMode: ReadWrite}]}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: meter}
spec: {protocol: mqtt, properties: [{name: count, type: INT, accessMode: ReadOnly}]}
`

// meters are the devices: meters count, and say so by MQTT ten times a second; pumps have a mapper and a desired value that
// people change. Their clients know what was acknowledged.
type meters struct {
	w                         *world
	models, devices, statuses dynamic.NamespaceableResourceInterface

	mu sync.Mutex
	// acked is the last value that the edge said it has, by device; next the one that is being sent.
	acked, next map[string]int
	// seen is the last value that the cluster showed; forgiven that it may once show an older one.
	seen     map[string]int
	forgiven map[string]bool
	faults   []error
	// still: nothing new is counted; hushed: nothing is sent at all.
	still, hushed bool
}

func newMeters(w *world, client dynamic.Interface) *meters {
	resource := func(name string) dynamic.NamespaceableResourceInterface {
		return client.Resource(v1beta1.GroupVersion.WithResource(name))
	}
	return &meters{w: w, models: resource("devicemodels"), devices: resource("devices"), statuses: resource("devicestatuses"),
		acked: map[string]int{}, next: map[string]int{}, seen: map[string]int{}, forgiven: map[string]bool{}}
}

func meter(i int) string { return fmt.Sprintf("meter-%d", i) }

func (m *meters) deploy(ctx context.Context) error {
	for doc := range strings.SplitSeq(models, "---") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return fmt.Errorf("deploy the devices: %w", err)
		}
		if _, err := m.models.Namespace(namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("deploy the devices: %w", err)
		}
	}
	create := func(name, model, protocol string, property map[string]any) error {
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1beta1.GroupVersion.String(), "kind": "Device", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"deviceModelRef": map[string]any{"name": model}, "nodeName": edgeName, "protocol": map[string]any{"protocolName": protocol}, "properties": []any{property}}}}
		_, err := m.devices.Namespace(namespace).Create(ctx, o, metav1.CreateOptions{})
		return err
	}
	var faults []error
	for i := range meterCount {
		faults = append(faults, create(meter(i), "meter", "mqtt", map[string]any{"name": "count", "reportToCloud": true}))
	}
	for _, name := range []string{"pump-1", "pump-2"} {
		faults = append(faults, create(name, "pump", "virtual", map[string]any{"name": "setpoint", "desired": map[string]any{"value": "1"}, "collectCycle": int64(200), "reportCycle": int64(200),
			"reportToCloud": true, "visitors": map[string]any{"protocolName": "virtual", "configData": map[string]any{}}}))
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("deploy the devices: %w", err)
	}
	return nil
}

// desire changes what is desired of a pump.
func (m *meters) desire(ctx context.Context, n int) error {
	patch := fmt.Appendf(nil, `[{"op":"replace","path":"/spec/properties/0/desired/value","value":%q}]`, strconv.Itoa(n))
	_, err := m.devices.Namespace(namespace).Patch(ctx, fmt.Sprintf("pump-%d", 1+n%2), types.JSONPatchType, patch, metav1.PatchOptions{})
	return err
}

// report has the meters count until ctx ends.
func (m *meters) report(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range meterCount {
		wg.Add(1)
		go func() { defer wg.Done(); m.count(ctx, meter(i)) }()
	}
	wg.Wait()
}

func (m *meters) count(ctx context.Context, name string) {
	var client paho.Client
	defer func() {
		if client != nil {
			client.Disconnect(0)
		}
	}()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.mu.Lock()
		// At rest the last one is sent until it is acknowledged.
		if !m.still && !m.hushed {
			m.next[name]++
		}
		value := m.next[name]
		idle := m.hushed || m.still && m.acked[name] == value
		m.mu.Unlock()
		if idle {
			continue
		}
		if client == nil || !client.IsConnectionOpen() {
			if client != nil {
				client.Disconnect(0)
			}
			if client = m.connect(name); client == nil {
				continue
			}
		}
		token := client.Publish(update(name), 1, false, fmt.Sprintf(`{"event_id":"%d","twin":{"count":{"actual":{"value":"%d"}}}}`, value, value))
		if !token.WaitTimeout(20*time.Second) || token.Error() != nil {
			client.Disconnect(0)
			client = nil
		}
	}
}

func update(name string) string {
	return "$hw/events/device/" + namespace + "/" + name + "/twin/update"
}

// answered takes the answer to an update: what is refused, as on a full disk, has a code.
func (m *meters) answered(name string, payload []byte) {
	var answer struct {
		EventID string `json:"event_id"`
		Code    int
	}
	if err := json.Unmarshal(payload, &answer); err != nil || answer.Code != 0 {
		return
	}
	value, err := strconv.Atoi(answer.EventID)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acked[name] = max(m.acked[name], value)
}

// connect returns a client of the edge's broker that hears what becomes of its updates, or nil.
func (m *meters) connect(name string) paho.Client {
	o := paho.NewClientOptions().AddBroker("tcp://127.0.0.1:1884").SetClientID("chaos-" + name).SetAutoReconnect(false).SetConnectTimeout(5 * time.Second).
		SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			return m.w.edge.DialContext(ctx, "tcp", u.Host)
		})
	c := paho.NewClient(o)
	if t := c.Connect(); !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		return nil
	}
	hear := c.Subscribe(update(name)+"/result", 1, func(_ paho.Client, msg paho.Message) { m.answered(name, msg.Payload()) })
	if !hear.WaitTimeout(10*time.Second) || hear.Error() != nil {
		c.Disconnect(0)
		return nil
	}
	return c
}

// rest lets the meters stand still, or go on.
func (m *meters) rest(still bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.still = still
}

// hush keeps the meters from sending anything, or lets them go on.
func (m *meters) hush(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hushed = yes
}

// accepted is what the edge said that it has, by device.
func (m *meters) accepted() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.acked)
}

// has returns nil when the edge itself shows of each meter what it accepted, or later values.
func (m *meters) has(ctx context.Context, accepted map[string]int) error {
	api, err := m.w.localAPI()
	if err != nil {
		return err
	}
	body, err := api.Discovery().RESTClient().Get().AbsPath("/apis/" + v1beta1.GroupVersion.String() + "/namespaces/" + namespace + "/devicestatuses").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("the edge's devices: %w", err)
	}
	var list unstructured.UnstructuredList
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("the edge's devices: %w", err)
	}
	shown := map[string]int{}
	for i := range list.Items {
		if v, ok := reported(&list.Items[i]); ok {
			shown[list.Items[i].GetName()], _ = strconv.Atoi(v) // a pump's value is one as well
		}
	}
	for name, value := range accepted {
		if shown[name] < value {
			return fmt.Errorf("the edge shows %s as %d, and had accepted %d", name, shown[name], value)
		}
	}
	return nil
}

// forgive: the cluster goes back to an older state, and with it what it shows.
func (m *meters) forgive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range meterCount {
		m.forgiven[meter(i)] = true
	}
}

// watch looks at what the cluster shows until ctx ends: no value may follow a newer one.
func (m *meters) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := m.statuses.Namespace(namespace).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			select { // the API server is one of the things that fail
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
			continue
		}
		for e := range w.ResultChan() {
			if o, ok := e.Object.(*unstructured.Unstructured); ok && (e.Type == watch.Added || e.Type == watch.Modified) {
				m.shown(o)
			}
		}
		w.Stop()
	}
}

func (m *meters) shown(o *unstructured.Unstructured) {
	value, ok := reported(o)
	if !ok {
		return
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := o.GetName()
	if _, is := m.next[name]; !is {
		return // a pump, which people turn up and down
	}
	if n < m.seen[name] && !m.forgiven[name] {
		m.faults = append(m.faults, fmt.Errorf("%s was shown as %d and then as %d", name, m.seen[name], n))
	}
	if n > m.next[name] {
		m.faults = append(m.faults, fmt.Errorf("%s was shown as %d, and had only counted to %d", name, n, m.next[name]))
	}
	m.seen[name] = n
}

// reported is the value of a device's one property in its DeviceStatus.
func reported(o *unstructured.Unstructured) (string, bool) {
	var s v1beta1.DeviceStatus
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &s); err != nil {
		return "", false
	}
	for _, t := range s.Status.Twins {
		if t.Reported != nil {
			return t.Reported.Value, true
		}
	}
	return "", false
}

// settled returns nil when the cluster shows of each device what it last said, and pumps what is desired.
func (m *meters) settled(ctx context.Context) error {
	list, err := m.statuses.Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	shown := map[string]string{}
	for i := range list.Items {
		if v, ok := reported(&list.Items[i]); ok {
			shown[list.Items[i].GetName()] = v
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range meterCount {
		name := meter(i)
		if m.acked[name] != m.next[name] {
			return fmt.Errorf("%s has counted to %d, of which the edge has %d", name, m.next[name], m.acked[name])
		}
		if shown[name] != strconv.Itoa(m.acked[name]) {
			return fmt.Errorf("%s is shown as %q, its last acknowledged report is %d", name, shown[name], m.acked[name])
		}
		m.forgiven[name] = false
	}
	devices, err := m.devices.Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range devices.Items {
		var d v1beta1.Device
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(devices.Items[i].Object, &d); err != nil {
			return fmt.Errorf("read device %s: %w", devices.Items[i].GetName(), err)
		}
		if d.Spec.NodeName != edgeName || d.Spec.DeviceModelRef.Name != "pump" {
			continue
		}
		if want := d.Spec.Properties[0].Desired.Value; shown[d.Name] != want {
			return fmt.Errorf("%s is shown as %q, desired is %q", d.Name, shown[d.Name], want)
		}
	}
	return nil
}

// wrong returns what the cluster showed and should not have.
func (m *meters) wrong() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.faults...)
}

// local returns nil when the edge has the devices that the cluster gives it, and no others.
func (m *meters) local(ctx context.Context) error {
	devices, err := m.devices.Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, d := range devices.Items {
		if node, _, _ := unstructured.NestedString(d.Object, "spec", "nodeName"); node == edgeName {
			want[d.GetName()] = true
		}
	}
	api, err := m.w.localAPI()
	if err != nil {
		return err
	}
	body, err := api.Discovery().RESTClient().Get().AbsPath("/apis/" + v1beta1.GroupVersion.String() + "/namespaces/" + namespace + "/devices").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("the edge's devices: %w", err)
	}
	var has struct {
		Items []metav1.PartialObjectMetadata
	}
	if err := json.Unmarshal(body, &has); err != nil {
		return fmt.Errorf("the edge's devices: %w", err)
	}
	for _, d := range has.Items {
		if !want[d.Name] {
			return fmt.Errorf("the edge has device %s, which is not its", d.Name)
		}
		delete(want, d.Name)
	}
	if len(want) > 0 {
		return fmt.Errorf("the edge lacks devices %v", want)
	}
	return nil
}
