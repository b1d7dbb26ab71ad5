package twins

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/netem"
)

// Numbers of a trial.
const (
	devicesOfMapper = 18
	devicesOfMQTT   = 12
	stepsOfTrial    = 60
)

// trial is one seed: a node of its own, and devices in a namespace of their own.
type trial struct {
	*lab
	t         *testing.T
	seed      uint64
	random    *rand.Rand
	namespace string
	node      string

	cloud  *cloud
	edge   *edge
	proxy  *netem.Proxy
	sim    *sim
	items  []*item
	values counter
	broker string
	linked bool
	site   int // desires of people at the site

	calls   []*call
	callers sync.WaitGroup
	calling context.Context // ends what callers do

	began    time.Time
	timeline []string
}

func newTrial(t *testing.T, l *lab, seed uint64) *trial {
	x := &trial{lab: l, t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0x7e7e)), namespace: fmt.Sprintf("twins-%d", seed), node: fmt.Sprintf("edge-%d", seed), began: time.Now(), linked: true}
	t.Cleanup(func() {
		if t.Failed() || *seedFlag != 0 {
			t.Logf("seed %d; again with: go test ./tests/twins -seed %d\n%s", seed, seed, strings.Join(x.timeline, "\n"))
		}
	})
	address, cfg := l.address(), l.cloud
	cfg.Hub.BindAddress, cfg.Metrics.BindAddress = address, net.JoinHostPort(address, "10003")
	x.cloud = &cloud{t: t, cfg: cfg, log: l.log.With("side", "cloud")}
	x.broker = net.JoinHostPort(address, "1884")
	var err error
	if x.proxy, err = netem.NewProxy(x.cloud.hub()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	id, roots := l.identity(t, x.node)
	x.edge = &edge{t: t, node: x.node, server: x.proxy.Addr(), dir: dir, id: id, roots: roots, log: l.log.With("side", "edge"), cfg: v1alpha1.DefaultEdgeCore().Devices}
	x.edge.cfg.MapperSocket, x.edge.cfg.MQTT.BindAddress = filepath.Join(dir, "dmi.sock"), x.broker
	x.edge.cfg.HTTP.BindAddress = net.JoinHostPort(address, "9060")
	x.sim = &sim{t: t, dir: dir, things: map[string]*thing{}, log: l.log.With("side", "mapper")}
	return x
}

func (x *trial) note(format string, args ...any) {
	x.timeline = append(x.timeline, fmt.Sprintf("%7.3f  ", time.Since(x.began).Seconds())+fmt.Sprintf(format, args...))
}

// run is the whole trial.
func (x *trial) run() {
	clients, stop := context.WithCancel(context.Background())
	x.calling = clients
	var running sync.WaitGroup
	x.t.Cleanup(func() {
		stop()
		running.Wait()
		x.callers.Wait()
		x.sim.end()
		x.proxy.Cut()
		x.edge.end()
		x.cloud.end()
		x.proxy.Close()
		x.clear()
	})
	x.make()
	x.cloud.start()
	x.edge.start()
	x.sim.start()
	for _, i := range x.items {
		if i.client != nil {
			running.Go(func() { i.client.run(clients) })
		}
	}
	x.agree("at the start")
	x.note("all are there and agree")
	for range stepsOfTrial {
		x.step()
		<-time.After(x.pause())
	}
	x.heal()
	x.called()
	x.agree("in the end")
	x.note("all agree")
	x.quiet()
	x.note("and nothing more is written")
	for _, i := range x.items {
		for _, wrong := range i.thing.wrong(x.sim.starts + i.births) {
			x.t.Error(wrong)
		}
	}
}

// pause is mostly short, so that steps meet, and sometimes long enough for a link to come back.
func (x *trial) pause() time.Duration {
	if x.random.IntN(8) == 0 {
		return time.Duration(x.random.IntN(400)) * time.Millisecond
	}
	return time.Duration(x.random.IntN(30)) * time.Millisecond
}

// make makes the node, two models and the devices.
func (x *trial) make() {
	x.t.Helper()
	x.lab.node(x.t, x.node)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: x.namespace}}
	if _, err := x.Admin.CoreV1().Namespaces().Create(x.t.Context(), ns, metav1.CreateOptions{}); err != nil {
		x.t.Fatal(err)
	}
	for _, p := range []string{protocol, "mqtt"} {
		x.create(v1beta1.DeviceModelKind, v1beta1.DeviceModelResource, "of-"+p, map[string]any{"protocol": p, "properties": []any{
			map[string]any{"name": "set", "type": "INT", "maximum": "1000000"}, map[string]any{"name": "mode", "type": "STRING"},
			map[string]any{"name": "flow", "type": "INT", "accessMode": "ReadOnly"}, map[string]any{"name": dose, "type": "STRING"}}})
	}
	for n := range devicesOfMapper + devicesOfMQTT {
		i := &item{name: fmt.Sprintf("pump-%02d", n), node: x.node}
		if n >= devicesOfMapper {
			i.name = fmt.Sprintf("meter-%02d", n)
		}
		i.thing = newThing(i.name)
		if n >= devicesOfMapper {
			i.client = newClient(i.thing, x.namespace, x.broker)
		} else {
			x.sim.things[i.name] = i.thing
		}
		x.items = append(x.items, i)
		x.makeDevice(i)
	}
}

// makeDevice makes the Device of an item, with new desired values.
func (x *trial) makeDevice(i *item) {
	x.t.Helper()
	p := protocol
	if i.client != nil {
		p = "mqtt"
	}
	i.wishes = map[string]*wish{}
	var properties []any
	for _, name := range i.readable() {
		property := map[string]any{"name": name, "collectCycle": int64(100), "reportToCloud": true}
		if slices.Contains(settable, name) {
			i.wishes[name] = newWish(x.values.next())
			property["desired"] = map[string]any{"value": i.wishes[name].cloud}
		}
		properties = append(properties, property)
	}
	spec := map[string]any{"deviceModelRef": map[string]any{"name": "of-" + p}, "nodeName": i.node, "properties": properties, "protocol": map[string]any{"protocolName": p}}
	if i.client == nil {
		spec["methods"] = []any{map[string]any{"name": method, "propertyNames": []any{dose}}}
	}
	made := x.create(v1beta1.DeviceKind, v1beta1.DeviceResource, i.name, spec)
	i.uid = string(made.GetUID())
	i.births++
}

func (x *trial) create(kind, resource, name string, spec map[string]any) *unstructured.Unstructured {
	x.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1beta1.GroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec}}
	made, err := x.kind(x.namespace, resource).Create(x.t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		x.t.Fatal(err)
	}
	return made
}

func (x *trial) patch(resource, name, patch string) {
	x.t.Helper()
	if _, err := x.kind(x.namespace, resource).Patch(x.t.Context(), name, types.JSONPatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		x.t.Fatal(err)
	}
}

// clear removes what the trial made, so that the next one's CloudCore has no work with it.
func (x *trial) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, resource := range []string{v1beta1.DeviceResource, v1beta1.DeviceStatusResource, v1beta1.DeviceModelResource} {
		if err := x.kind(x.namespace, resource).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			x.t.Error(err)
		}
	}
	if err := x.Admin.CoreV1().Nodes().Delete(ctx, x.node, metav1.DeleteOptions{}); err != nil {
		x.t.Error(err)
	}
}
