package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/stack"
)

// brokerAddress is where edgecore's broker listens by default, inside the edge's network.
const brokerAddress = "127.0.0.1:1884"

// answerTimeout bounds the wait for the broker's answer to one message.
const answerTimeout = 30 * time.Second

func deviceName(i int) string     { return fmt.Sprintf("meter-%03d", i) }
func propertyName(i int) string   { return fmt.Sprintf("p%d", i) }
func valueName(i, p int) string   { return valueKey(deviceName(i), propertyName(p)) }
func valueKey(d, p string) string { return d + "/" + p }

// devicesSystem is a system whose edge has devices that speak MQTT, and a watch of what the cluster shows of them.
type devicesSystem struct {
	*system
	edge    *stack.Edge
	api     *rest.RESTClient // the API server, for kinds of devices
	shown   *watcher
	clients []paho.Client
	value   int // the last one reported
	stop    context.CancelFunc
}

// devicesSystem brings it up with that many devices of that many properties. The caller calls down.
func (b *bench) devicesSystem(ctx context.Context, devices, properties int) (*devicesSystem, error) {
	s, err := b.system(ctx, nil)
	if err != nil {
		return nil, err
	}
	m := &devicesSystem{system: s, stop: func() {}}
	if err := m.bring(ctx, devices, properties); err != nil {
		return nil, m.down(err)
	}
	return m, nil
}

func (m *devicesSystem) bring(ctx context.Context, devices, properties int) (err error) {
	if m.edge, err = m.profiledEdge(ctx, "edge-1"); err != nil {
		return err
	}
	if m.api, err = m.devicesAPI(); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	m.stop = stop
	m.shown = newWatcher(watching, "the cluster", m.watchStatuses, reportedValues)
	var all []*v1beta1.Device
	for i := range devices {
		all = append(all, newDevice(deviceName(i), m.edge.Name(), "mqtt", properties))
	}
	return m.makeDevices(ctx, m.api, newModel("mqtt", properties), all)
}

func (m *devicesSystem) down(err error) error {
	for _, c := range m.clients {
		c.Disconnect(0)
	}
	m.stop()
	return m.system.down(err)
}

// devicesAPI is the admin's client for the kinds of devices.
func (s *system) devicesAPI() (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config := s.REST()
	config.APIPath, config.GroupVersion = "/apis", &v1beta1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return rest.RESTClientFor(config)
}

// newModel is the model of devices with that many numbers.
func newModel(protocol string, properties int) *v1beta1.DeviceModel {
	model := &v1beta1.DeviceModel{TypeMeta: typeMeta(v1beta1.DeviceModelKind), ObjectMeta: metav1.ObjectMeta{Name: protocol}}
	model.Spec.Protocol = protocol
	for p := range properties {
		model.Spec.Properties = append(model.Spec.Properties, v1beta1.ModelProperty{Name: propertyName(p), Type: v1beta1.Int, AccessMode: v1beta1.ReadWrite})
	}
	return model
}

// newDevice is a device of the model that newModel makes for the protocol.
func newDevice(name, node, protocol string, properties int) *v1beta1.Device {
	d := &v1beta1.Device{TypeMeta: typeMeta(v1beta1.DeviceKind), ObjectMeta: metav1.ObjectMeta{Name: name}}
	d.Spec.DeviceModelRef, d.Spec.NodeName = &v1beta1.ModelReference{Name: protocol}, node
	d.Spec.Protocol = &v1beta1.ProtocolConfig{ProtocolName: protocol}
	for p := range properties {
		d.Spec.Properties = append(d.Spec.Properties, v1beta1.DeviceProperty{Name: propertyName(p), ReportToCloud: new(true)})
	}
	return d
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: kind}
}

// makeDevices makes a model, unless it is there, and devices, and waits until the edge has reported every device.
func (s *system) makeDevices(ctx context.Context, api *rest.RESTClient, model *v1beta1.DeviceModel, devices []*v1beta1.Device) error {
	if err := api.Post().Namespace(namespace).Resource(v1beta1.DeviceModelResource).Body(model).Do(ctx).Error(); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make model %s: %w", model.Name, err)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, d := range devices {
		group.Go(func() error {
			if err := api.Post().Namespace(namespace).Resource(v1beta1.DeviceResource).Body(d).Do(gctx).Error(); err != nil {
				return fmt.Errorf("make device %s: %w", d.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return until(ctx, poll, readyTimeout, fmt.Sprintf("%d devices to be ready", len(devices)), func() error {
		list := &v1beta1.DeviceStatusList{}
		if err := api.Get().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Do(ctx).Into(list); err != nil {
			return err
		}
		ready := map[string]bool{}
		for _, s := range list.Items {
			for _, c := range s.Status.Conditions {
				ready[s.Name] = ready[s.Name] || c.Type == v1beta1.ConditionReady && c.Status == metav1.ConditionTrue
			}
		}
		for _, d := range devices {
			if !ready[d.Name] {
				return fmt.Errorf("device %s is not", d.Name)
			}
		}
		return nil
	})
}

// watchStatuses is a plain watch of every DeviceStatus.
func (m *devicesSystem) watchStatuses(ctx context.Context) (watch.Interface, error) {
	return m.api.Get().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).VersionedParams(&metav1.ListOptions{Watch: true}, metav1.ParameterCodec).Watch(ctx)
}

// reportedValues are the numbers in a DeviceStatus, by valueKey.
func reportedValues(o runtime.Object) map[string]int {
	s, ok := o.(*v1beta1.DeviceStatus)
	if !ok {
		return nil
	}
	values := map[string]int{}
	for _, t := range s.Status.Twins {
		if t.Reported == nil {
			continue
		}
		if v, err := strconv.Atoi(t.Reported.Value); err == nil {
			values[valueKey(s.Name, t.PropertyName)] = v
		}
	}
	return values
}

// connect is a client of the edge's broker, as device software on the gateway has it. down disconnects it.
func (m *devicesSystem) connect(ctx context.Context, id string) (paho.Client, error) {
	c, err := connectMQTT(ctx, m.edge, id)
	if err == nil {
		m.clients = append(m.clients, c)
	}
	return c, err
}

func connectMQTT(ctx context.Context, e *stack.Edge, id string) (paho.Client, error) {
	options := paho.NewClientOptions().AddBroker("tcp://" + brokerAddress).SetClientID(id).SetAutoReconnect(false).SetWriteTimeout(answerTimeout).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) { return e.DialContext(ctx, "tcp", brokerAddress) })
	c := paho.NewClient(options)
	if err := answered(ctx, c.Connect()); err != nil {
		return nil, fmt.Errorf("connect %s to the broker of %s: %w", id, e.Name(), err)
	}
	return c, nil
}

// answered waits for the broker's answer: with QoS 1 what was reported is on the edge's disk then.
func answered(ctx context.Context, t paho.Token) error {
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-timer.C:
		return fmt.Errorf("no answer of the broker after %s", answerTimeout)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publish reports one property of a device with QoS 1, and does not wait for the answer.
func publish(c paho.Client, device, property string, value int) paho.Token {
	return c.Publish("$hw/events/device/"+namespace+"/"+device+"/twin/update", 1, false, fmt.Sprintf(`{"event_id":"","twin":{%q:{"actual":{"value":"%d"}}}}`, property, value))
}
