package device

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// A world is an API server with the kinds that matter here, and a cache that follows it.
type world struct {
	mu     sync.Mutex
	rv     int
	server map[object.Key]object.Object
	cache  map[object.Key]object.Object
	// stopped: the cache hears of nothing.
	stopped bool
	heard   []object.Key
	follow  map[int]func([]object.Key)
	// looks counts the looks at Devices in the cache.
	looks int
	// writes are those of DeviceStatuses that were asked for, "patch plant/pump"; fails answers them, where it returns an error.
	writes []string
	fails  func(verb string) error
	// away are the CloudCores that hold no node.
	away map[int]bool
	// events are those that were recorded, "pump StatusRestored: message".
	events []string
	// before is called ahead of each write that is not refused, without any lock.
	before func(verb string)
}

func newWorld() *world {
	return &world{server: map[object.Key]object.Object{}, cache: map[object.Key]object.Object{}, follow: map[int]func([]object.Key){}}
}

func keyOf(o object.Object) object.Key {
	switch o.(type) {
	case *v1beta1.Device:
		return object.KeyOf(object.Devices, o)
	case *v1beta1.DeviceModel:
		return object.KeyOf(object.DeviceModels, o)
	case *v1beta1.DeviceStatus:
		return object.KeyOf(object.DeviceStatuses, o)
	}
	return object.KeyOf(object.Nodes, o)
}

// put creates or replaces an object; one that is replaced keeps its uid.
func (w *world) put(o object.Object) {
	w.mu.Lock()
	w.store(o)
	w.mu.Unlock()
	w.tell(keyOf(o))
}

// store is called with mu held.
func (w *world) store(o object.Object) {
	w.rv++
	o.SetResourceVersion(strconv.Itoa(w.rv))
	if old := w.server[keyOf(o)]; old != nil && o.GetUID() == "" {
		o.SetUID(old.GetUID())
	} else if o.GetUID() == "" {
		o.SetUID(types.UID("uid-" + strconv.Itoa(w.rv)))
	}
	w.server[keyOf(o)] = o.DeepCopyObject().(object.Object)
}

func (w *world) remove(k object.Key) {
	w.mu.Lock()
	w.rv++
	delete(w.server, k)
	w.mu.Unlock()
	w.tell(k)
}

// tell brings a change to the cache.
func (w *world) tell(keys ...object.Key) {
	w.mu.Lock()
	if w.stopped {
		w.heard = append(w.heard, keys...)
		w.mu.Unlock()
		return
	}
	for _, k := range keys {
		if o := w.server[k]; o != nil {
			w.cache[k] = o
		} else {
			delete(w.cache, k)
		}
	}
	follow := maps.Clone(w.follow)
	w.mu.Unlock()
	for _, f := range follow {
		f(keys)
	}
}

func (w *world) stopCache() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
}

func (w *world) startCache() {
	w.mu.Lock()
	w.stopped = false
	keys := w.heard
	w.heard = nil
	w.mu.Unlock()
	w.tell(keys...)
}

func (w *world) Object(k object.Key) (object.Object, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.cache[k]
	if k.Kind == object.Devices {
		w.looks++
	}
	if o == nil {
		return nil, false
	}
	return o.DeepCopyObject().(object.Object), true
}

func (w *world) WaitSynced(context.Context) error { return nil }

func (w *world) Follow(kinds []object.ID, notify func([]object.Key)) (cancel func()) {
	w.mu.Lock()
	id := len(w.follow)
	w.follow[id] = notify
	var keys []object.Key
	for k := range w.cache {
		keys = append(keys, k)
	}
	w.mu.Unlock()
	notify(keys)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.follow, id)
	}
}

var statusResource = schema.GroupResource{Group: "devices.kubeedge.io", Resource: "devicestatuses"}

func (w *world) Device(_ context.Context, key types.NamespacedName) (*v1beta1.Device, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d, ok := w.server[object.Key{Kind: object.Devices, Namespace: key.Namespace, Name: key.Name}].(*v1beta1.Device)
	if !ok {
		return nil, apierrors.NewNotFound(statusResource, key.Name)
	}
	return d.DeepCopy(), nil
}

func (w *world) Status(_ context.Context, key types.NamespacedName) (*v1beta1.DeviceStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.server[object.Key{Kind: object.DeviceStatuses, Namespace: key.Namespace, Name: key.Name}].(*v1beta1.DeviceStatus)
	if !ok {
		return nil, apierrors.NewNotFound(statusResource, key.Name)
	}
	return s.DeepCopy(), nil
}

// begin notes a write.
func (w *world) begin(verb string, key types.NamespacedName) error {
	w.mu.Lock()
	w.writes = append(w.writes, verb+" "+key.String())
	fails, before := w.fails, w.before
	w.mu.Unlock()
	if fails != nil {
		if err := fails(verb); err != nil {
			return err
		}
	}
	if before != nil {
		before(verb)
	}
	return nil
}

func (w *world) Create(_ context.Context, s *v1beta1.DeviceStatus) (*v1beta1.DeviceStatus, error) {
	key := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	if err := w.begin(verbCreate, key); err != nil {
		return nil, err
	}
	if _, err := w.Status(context.Background(), key); err == nil {
		return nil, apierrors.NewAlreadyExists(statusResource, s.Name)
	}
	s = s.DeepCopy()
	w.put(s)
	return s, nil
}

func (w *world) Patch(_ context.Context, key types.NamespacedName, patch []byte) (*v1beta1.DeviceStatus, error) {
	if err := w.begin(verbPatch, key); err != nil {
		return nil, err
	}
	w.mu.Lock()
	k := object.Key{Kind: object.DeviceStatuses, Namespace: key.Namespace, Name: key.Name}
	s, ok := w.server[k].(*v1beta1.DeviceStatus)
	if !ok {
		w.mu.Unlock()
		return nil, apierrors.NewNotFound(statusResource, key.Name)
	}
	merged, err := patched(s, patch)
	if err == nil && (merged.UID != s.UID || merged.ResourceVersion != s.ResourceVersion) {
		err = apierrors.NewConflict(statusResource, key.Name, fmt.Errorf("it is at %s", s.ResourceVersion))
	}
	if err != nil {
		w.mu.Unlock()
		return nil, err
	}
	w.store(merged)
	w.mu.Unlock()
	w.tell(k)
	return merged, nil
}

func (w *world) Delete(_ context.Context, key types.NamespacedName, uid types.UID) error {
	if err := w.begin(verbDelete, key); err != nil {
		return err
	}
	if s, err := w.Status(context.Background(), key); err != nil {
		return err
	} else if s.UID != uid {
		return apierrors.NewConflict(statusResource, key.Name, fmt.Errorf("it has uid %s", s.UID))
	}
	w.remove(object.Key{Kind: object.DeviceStatuses, Namespace: key.Namespace, Name: key.Name})
	return nil
}

func (w *world) Happened(_ context.Context, e *corev1.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e.InvolvedObject.Name+" "+e.Reason+": "+e.Message)
	return nil
}

// leave has the nodes have no session with these CloudCores.
func (w *world) leave(all ...int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = map[int]bool{}
	for _, cloudcore := range all {
		w.away[cloudcore] = true
	}
}

func (w *world) holds(cloudcore int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.away[cloudcore]
}

// happened returns the Events since the last call.
func (w *world) happened() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.events
	w.events = nil
	return all
}

// patched applies a merge patch as RFC 7386 says.
func patched(s *v1beta1.DeviceStatus, patch []byte) (*v1beta1.DeviceStatus, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var doc, change map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &change); err != nil {
		return nil, err
	}
	if raw, err = json.Marshal(merge(doc, change)); err != nil {
		return nil, err
	}
	out := &v1beta1.DeviceStatus{}
	return out, json.Unmarshal(raw, out)
}

func merge(doc, change map[string]any) map[string]any {
	if doc == nil {
		doc = map[string]any{}
	}
	for k, v := range change {
		sub, isMap := v.(map[string]any)
		switch {
		case v == nil:
			delete(doc, k)
		case isMap:
			was, _ := doc[k].(map[string]any)
			doc[k] = merge(was, sub)
		default:
			doc[k] = v
		}
	}
	return doc
}

// written counts the writes of DeviceStatuses since the last call, all and by device.
func (w *world) written() (all int, by map[string]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	by = map[string]int{}
	for _, line := range w.writes {
		by[strings.Fields(line)[1]]++
	}
	all, w.writes = len(w.writes), nil
	return all, by
}

const testNamespace = "plant"

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: testNamespace, Name: name}
}

// newDevice is a device of model "heat-pump" at a node.
func newDevice(name, node string) *v1beta1.Device {
	return &v1beta1.Device{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: name, Generation: 1},
		Spec: v1beta1.DeviceSpec{NodeName: node, DeviceModelRef: &v1beta1.ModelReference{Name: "heat-pump"},
			Properties: []v1beta1.DeviceProperty{{Name: "setpoint", Desired: &v1beta1.TwinProperty{Value: "45"}}}}}
}

func newModel(maximum string) *v1beta1.DeviceModel {
	return &v1beta1.DeviceModel{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: "heat-pump"},
		Spec: v1beta1.DeviceModelSpec{Protocol: "modbus", Properties: []v1beta1.ModelProperty{{Name: "setpoint", Type: v1beta1.Int, Maximum: maximum}}}}
}

func newNode(name, provider string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{ProviderID: provider},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

// run tests with a world of model heat-pump and the nodes edge-1 and edge-2, in fake time, and n Controllers.
func run(t *testing.T, n int, cfg Config, test func(t *testing.T, w *world, all []*Controller)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.put(newModel("60"))
		w.put(newNode("edge-1", "tether://edge-1", corev1.ConditionTrue))
		w.put(newNode("edge-2", "tether://edge-2", corev1.ConditionTrue))
		ctx, stop := context.WithCancel(t.Context())
		var all []*Controller
		var running sync.WaitGroup
		for i := range n {
			c := New(cfg, Deps{API: w, Cache: w, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
				Holds:  func(string) bool { return w.holds(i) },
				IsEdge: func(n *corev1.Node) bool { return strings.HasPrefix(n.Spec.ProviderID, "tether://") }})
			running.Go(func() {
				if err := c.Start(ctx); err != nil {
					t.Error(err)
				}
			})
			all = append(all, c)
		}
		synctest.Wait()
		test(t, w, all)
		stop()
		running.Wait()
	})
}

// add makes a device and waits for its status; w is quiet then.
func (w *world) add(t *testing.T, name, node string) *v1beta1.Device {
	t.Helper()
	d := newDevice(name, node)
	w.put(d)
	synctest.Wait()
	w.written()
	return d
}

func (w *world) status(t *testing.T, name string) *v1beta1.DeviceStatus {
	t.Helper()
	s, err := w.Status(t.Context(), named(name))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func condition(s *v1beta1.DeviceStatus, kind string) string {
	i := indexOf(s.Status.Conditions, kind)
	if i < 0 {
		return "absent"
	}
	return string(s.Status.Conditions[i].Status) + " " + s.Status.Conditions[i].Reason
}

// body is a report of one value.
func body(value string) []byte {
	return fmt.Appendf(nil, `{"twins":[{"propertyName":"setpoint","reported":{"value":%q,"metadata":{"timestamp":"1"}}}],"state":"ok","lastOnlineTime":"2026-01-02T03:04:05Z",`+
		`"conditions":[{"type":"MapperConnected","status":"True","reason":"Registered"},{"type":"Reported","status":"False","reason":"Differs"},{"type":"Ready","status":"True","reason":"Forged"}]}`, value)
}

func value(s *v1beta1.DeviceStatus) string {
	if len(s.Status.Twins) == 0 || s.Status.Twins[0].Reported == nil {
		return ""
	}
	return s.Status.Twins[0].Reported.Value
}

// say reports and expects that it is written.
func say(t *testing.T, c *Controller, node string, d *v1beta1.Device, v string) {
	t.Helper()
	if r := c.Report(t.Context(), node, named(d.Name), string(d.UID), body(v)); r.Code != http.StatusOK || !r.Final || r.ResourceVersion == 0 {
		t.Fatalf("the report is answered %v", r)
	}
}

// outcome is what matters of a Result.
func outcome(r *wire.Result) string { return fmt.Sprintf("%d %v %s", r.Code, r.Final, r.Reason) }

// eventually waits in fake time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a minute later: %s: not so", what)
		}
	}
}

// testTime is now, where no clock runs.
var testTime = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
