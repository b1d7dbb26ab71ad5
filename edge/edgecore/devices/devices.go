// Package devices joins the parts that look after a node's devices: the engine, the mappers' socket and MQTT, on the node's store.
// edge/edgecore runs it; it is a package of its own so that tests can run it without a kubelet.
package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/twin"
	"github.com/tether-edge/tether/edge/device"
	"github.com/tether-edge/tether/edge/mapper"
	"github.com/tether-edge/tether/edge/methods"
	"github.com/tether-edge/tether/edge/mqtt"
	"github.com/tether-edge/tether/edge/store"
)

// Deps are what the devices of a node need; all are required.
type Deps struct {
	Store      *store.Store
	Log        *slog.Logger
	Now        func() time.Time
	Registerer prometheus.Registerer
	// Happened shows an Event at the node, which goes to the cloud by the store.
	Happened func(context.Context, object.Outgoing) error
}

// Devices are the parts, made with New.
type Devices struct {
	Engine    *device.Engine
	mappers   *mapper.Server // nil for none
	mqtt      *mqtt.Service  // nil for none
	mqttUsers *mqttUsers
	methods   *methods.Server // nil for none
	log       *slog.Logger
}

// New makes the engine of devices and its sides. The error says what in cfg, which is valid, cannot work on this machine.
func New(node string, cfg v1alpha1.EdgeDevices, deps Deps) (*Devices, error) {
	d := &Devices{log: deps.Log}
	d.Engine = device.New(device.Config{Node: node, Pause: cfg.ReportPause.Std()}, device.Deps{Store: deviceStore{deps.Store, deps.Happened, d.part("device")}, Listeners: []device.Listener{&ear{d}},
		Log: d.part("device"), Now: deps.Now, Registerer: deps.Registerer})
	var users *mqtt.Users
	var err error
	if cfg.HasUsers() {
		if users, err = mqtt.NewUsers(usersOf(cfg.MQTT.Users), cfg.MQTT.Anonymous, cfg.MQTT.UsersSecret.Name != ""); err != nil {
			return nil, fmt.Errorf("devices.mqtt: %w", err)
		}
	}
	d.buildMethods(cfg.HTTP, users, deps)
	if cfg.MapperSocket != "" {
		d.mappers, err = mapper.New(mapper.Config{Socket: cfg.MapperSocket}, mapper.Deps{Devices: mapperDevices{d.Engine, d.methods}, Memory: mapperMemory{deps.Store}, Log: d.part("mapper"),
			Now: deps.Now, Registry: deps.Registerer,
			Connected: func(protocol string, connected bool, _ time.Time) {
				d.Engine.Connected(context.Background(), protocol, connected)
			},
			Told:  func(namespace, name string, err error) { d.Engine.Told(context.Background(), namespace, name, err) },
			Given: d.given})
		if err != nil {
			return nil, err
		}
	}
	if cfg.MQTT.Mode != v1alpha1.MQTTOff {
		c := mqttConfig(node, cfg.MQTT)
		if err := c.Validate(); err != nil {
			return nil, fmt.Errorf("devices.mqtt: %w", err)
		}
		d.mqtt = mqtt.New(c, mqtt.Deps{Users: users, Devices: mqttDevices{d.Engine}, Memory: mqttMemory{deps.Store}, Reached: d.deltas, Log: d.part("mqtt"), Registry: deps.Registerer, Now: deps.Now})
	}
	d.mqttUsers = &mqttUsers{node: node, store: deps.Store, write: deps.Store.Keep, shown: deps.Happened, log: d.part("mqtt"), now: deps.Now}
	if s := cfg.MQTT.UsersSecret; s.Name != "" && users != nil {
		d.mqttUsers.key = object.Key{Kind: object.Secrets, Namespace: s.Namespace, Name: s.Name}
		if d.mqttUsers.set = users.Set; d.mqtt != nil {
			d.mqttUsers.set = d.mqtt.SetUsers
		}
	}
	return d, nil
}

func (d *Devices) part(name string) *slog.Logger { return d.log.With("part", name) }

// Add makes the parts members of a group: after the store, and before the link, so that what they know is there when the cloud is.
func (d *Devices) Add(group *run.Group) {
	group.Add("device", d.Engine)
	if d.mappers != nil {
		// A mapper that registers is answered with its devices, and lets go of all others.
		group.Add("mapper", d.onceReady(Persistent("the socket for mappers", d.mappers.Start, d.part("mapper"))))
	}
	group.Add("mqtt-users", d.mqttUsers)
	if d.mqtt != nil {
		// Who asks for a device's twin is not told that there is no such device.
		group.Add("mqtt", d.onceReady(Persistent("MQTT", d.mqtt.Start, d.part("mqtt"))))
	}
	if d.methods != nil {
		group.Add("methods", run.Func(Persistent("the port for methods of devices", d.methods.Start, d.part("methods"))))
	}
}

// onceReady starts what needs to know the devices once the engine does.
func (d *Devices) onceReady(start func(context.Context) error) run.Func {
	return func(ctx context.Context) error {
		select {
		case <-d.Engine.Ready():
			return start(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// mqttConfig is the configuration of edge/mqtt.
func mqttConfig(node string, m v1alpha1.MQTT) mqtt.Config {
	c := mqtt.Default(node)
	if m.Mode == v1alpha1.MQTTExternal {
		c.Mode = mqtt.External
	}
	c.Broker.Listen, c.Broker.Anonymous = m.BindAddress, m.Anonymous
	c.Broker.ListenTLS, c.Broker.CertFile, c.Broker.KeyFile = m.TLS.BindAddress, m.TLS.CertFile, m.TLS.KeyFile
	c.Broker.Users, c.Broker.MoreUsers = usersOf(m.Users), m.UsersSecret.Name != ""
	c.Server = mqtt.Server{URL: m.Server.URL, User: m.Server.User, PasswordFile: m.Server.PasswordFile, CAFile: m.Server.CAFile, CertFile: m.Server.CertFile, KeyFile: m.Server.KeyFile}
	return c
}

// Persistent runs start again and again: a port or a socket that somebody else has must not take the node's pods along.
func Persistent(what string, start func(context.Context) error, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		tries, said := backoff.New(backoff.Config{Base: time.Second, Max: time.Minute}), ""
		for ctx.Err() == nil {
			began := time.Now()
			err := start(ctx)
			if ctx.Err() != nil {
				break
			}
			if time.Since(began) > time.Minute {
				tries = backoff.New(backoff.Config{Base: time.Second, Max: time.Minute})
			}
			if text := fmt.Sprint(err); text != said {
				said = text
				log.Error(what+" is not served, trying again", "error", err)
			}
			if tries.Wait(ctx) != nil {
				break
			}
		}
		return nil
	}
}

// given hears that a mapper took a device as it is.
func (d *Devices) given(told *dmi.Device) {
	desired := make(map[string]string, len(told.GetSpec().GetProperties()))
	for _, p := range told.GetSpec().GetProperties() {
		desired[p.GetName()] = p.GetDesired().GetValue()
	}
	d.Engine.Took(context.Background(), told.GetNamespace(), told.GetName(), desired)
	if d.methods != nil {
		d.methods.Given(told)
	}
}

// buildMethods makes the port for methods of devices, if there is to be one.
func (d *Devices) buildMethods(cfg v1alpha1.HTTP, users *mqtt.Users, deps Deps) {
	if cfg.BindAddress == "" && cfg.TLS.BindAddress == "" {
		return
	}
	d.methods = methods.New(methods.Config{Listen: cfg.BindAddress, ListenTLS: cfg.TLS.BindAddress, CertFile: cfg.TLS.CertFile, KeyFile: cfg.TLS.KeyFile, Timeout: cfg.Timeout.Std()},
		methods.Deps{Devices: methodDevices{d.Engine}, Memory: methodMemory{deps.Store}, Users: users, Log: d.part("methods"), Registry: deps.Registerer})
}

// ear passes on what happens to devices.
type ear struct{ d *Devices }

func (l *ear) Changed(c device.Change) {
	if c.Desired && l.d.mappers != nil {
		l.d.mappers.Changed(c.Namespace, c.Name)
	}
	if l.d.methods != nil {
		l.d.methods.Changed(c.Namespace, c.Name, c.Current)
	}
	m := l.d.mqtt
	if m == nil {
		return
	}
	shifts := map[string]mqtt.Shift{}
	for name := range c.Last {
		shifts[name] = mqtt.Shift{Last: propertyOf(c.Last[name]), Current: propertyOf(c.Current[name])}
	}
	m.Document(c.Namespace, c.Name, shifts)
	l.d.delta(c.Namespace, c.Name, c.Pending)
}

// delta says which properties of a device wait for what is desired of them, if any does.
func (d *Devices) delta(namespace, name string, pending map[string]*twin.Property) {
	if len(pending) == 0 {
		return
	}
	properties, delta := map[string]mqtt.Property{}, map[string]string{}
	for name, p := range pending {
		properties[name], delta[name] = *propertyOf(p), p.Desired().Value
	}
	d.mqtt.Delta(namespace, name, properties, delta)
}

// deltas says it of all devices.
func (d *Devices) deltas() {
	for _, v := range d.Engine.Devices(nil) {
		maps.DeleteFunc(v.Properties, func(_ string, p *twin.Property) bool { return !p.Differs() })
		d.delta(v.Device.Namespace, v.Device.Name, v.Properties)
	}
}

func (l *ear) Placed(namespace, name string, how device.Placement) {
	if l.d.mappers != nil {
		l.d.mappers.Changed(namespace, name)
	}
	if l.d.methods != nil && how == device.Went {
		l.d.methods.Gone(namespace, name)
	}
	m := l.d.mqtt
	switch info := []mqtt.Info{{Namespace: namespace, Name: name}}; {
	case m == nil:
	case how == device.Went:
		m.Members(nil, info)
	case how == device.Came:
		m.Members(info, nil)
	case how == device.Altered:
		m.Updated(namespace, name)
	}
}

// propertyOf is a property as MQTT shows it.
func propertyOf(p *twin.Property) *mqtt.Property {
	if p == nil {
		return nil
	}
	out := &mqtt.Property{Expected: valueOf(p.Desired()), Actual: valueOf(p.Reported), Optional: new(true)}
	if p.Type != "" {
		out.Metadata = &mqtt.TypeMetadata{Type: string(p.Type)}
	}
	if out.Expected != nil {
		out.ExpectedVersion = &mqtt.Version{Cloud: p.DesiredVersions.Cloud, Edge: p.DesiredVersions.Edge}
	}
	if out.Actual != nil {
		out.ActualVersion = &mqtt.Version{Cloud: p.ReportedVersions.Cloud, Edge: p.ReportedVersions.Edge}
	}
	return out
}

func valueOf(v *twin.Value) *mqtt.Value {
	if v == nil {
		return nil
	}
	at, err := strconv.ParseInt(v.Metadata["timestamp"], 10, 64)
	if err != nil {
		at = v.Stamp.Wall
	}
	return &mqtt.Value{Value: &v.Value, Metadata: &mqtt.ValueMetadata{Timestamp: at}}
}

// mqttDevices presents the engine to MQTT's clients.
type mqttDevices struct{ *device.Engine }

// answered gives the engine's errors the names that edge/mqtt knows.
func answered(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, device.ErrUnknown):
		return fmt.Errorf("%w: %w", mqtt.ErrNotFound, err)
	case errors.Is(err, device.ErrInvalid), errors.Is(err, twin.ErrTooMany), errors.Is(err, twin.ErrTooLong):
		return fmt.Errorf("%w: %w", mqtt.ErrInvalid, detail(err))
	}
	return err
}

// detail is what the engine says of what cannot be, without the word that it says it with.
func detail(err error) error {
	if text, ok := strings.CutPrefix(err.Error(), device.ErrInvalid.Error()+": "); ok {
		return errors.New(text)
	}
	return err
}

func (d mqttDevices) Update(ctx context.Context, namespace, name string, u mqtt.Update) error {
	updates := map[string]twin.Update{}
	for property, p := range u.Twin {
		one := twin.Update{Desired: saidOf(p.Expected, u.Timestamp), Reported: saidOf(p.Actual, u.Timestamp)}
		if p.Metadata != nil {
			if p.Metadata.Type == mqtt.Deleted {
				one = twin.Update{Remove: true}
			} else {
				one.Type = v1beta1.PropertyType(p.Metadata.Type)
			}
		}
		updates[property] = one
	}
	return answered(d.Engine.Update(ctx, namespace, name, updates))
}

// saidOf is a value that a client sent; nil for none.
func saidOf(v *mqtt.Value, at int64) *v1beta1.TwinProperty {
	if v == nil || v.Value == nil {
		return nil
	}
	if v.Metadata != nil && v.Metadata.Timestamp != 0 {
		at = v.Metadata.Timestamp
	}
	out := &v1beta1.TwinProperty{Value: *v.Value}
	if at != 0 {
		out.Metadata = map[string]string{"timestamp": strconv.FormatInt(at, 10)}
	}
	return out
}

func (d mqttDevices) Twin(namespace, name string) (map[string]mqtt.Property, error) {
	v, ok := d.Device(namespace, name)
	if !ok {
		return nil, fmt.Errorf("%w: %w", mqtt.ErrNotFound, device.ErrUnknown)
	}
	return propertiesOf(v), nil
}

func propertiesOf(v device.View) map[string]mqtt.Property {
	all := map[string]mqtt.Property{}
	for name, p := range v.Properties {
		all[name] = *propertyOf(p)
	}
	return all
}

func (d mqttDevices) SetState(ctx context.Context, namespace, name, state string) (mqtt.Info, error) {
	at, err := d.Engine.SetState(ctx, namespace, name, state)
	return mqtt.Info{Namespace: namespace, Name: name, State: state, LastOnline: textOf(at)}, answered(err)
}

func textOf(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

func (d mqttDevices) List() []mqtt.Info {
	var all []mqtt.Info
	for _, v := range d.Devices(nil) {
		all = append(all, mqtt.Info{Namespace: v.Device.Namespace, Name: v.Device.Name, State: v.State, LastOnline: textOf(v.LastOnline), Twin: propertiesOf(v)})
	}
	return all
}

// mapperDevices presents the engine to mappers, whose reports also read back what methods desired.
type mapperDevices struct {
	*device.Engine
	methods *methods.Server // nil for none
}

// refused gives those of the engine's errors that no second try helps against the codes that mappers know.
func refused(err error) error {
	switch {
	case errors.Is(err, device.ErrUnknown):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, device.ErrInvalid), errors.Is(err, twin.ErrTooMany), errors.Is(err, twin.ErrTooLong):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

func (d mapperDevices) Report(ctx context.Context, namespace, name string, twins []v1beta1.Twin) error {
	if d.methods == nil {
		return refused(d.Engine.Report(ctx, namespace, name, twins))
	}
	notes, said, err := d.methods.Reporting(ctx, namespace, name, twins)
	if err != nil {
		return err
	}
	err = errors.New("the report was not stored") // until it is: said is called whatever happens
	defer func() { said(err) }()
	err = refused(d.Engine.Report(ctx, namespace, name, twins, notesOf(notes)...))
	return err
}

func notesOf(notes []methods.Note) []device.Note {
	all := make([]device.Note, len(notes))
	for i, n := range notes {
		all[i] = device.Note(n)
	}
	return all
}

// methodDevices presents the engine to callers of methods.
type methodDevices struct{ *device.Engine }

func (d methodDevices) Status(namespace, name string) (conditions []metav1.Condition, connected bool) {
	return d.Health(namespace, name)
}

func (d methodDevices) Device(namespace, name string) (methods.Device, bool) {
	v, ok := d.Engine.Device(namespace, name)
	return methods.Device{Device: v.Device, Model: v.Model, Properties: v.Properties, Refused: v.Refused, State: v.State, LastOnline: v.LastOnline}, ok
}

func (d methodDevices) Desire(ctx context.Context, namespace, name, uid, call string, values map[string]string, notes ...methods.Note) error {
	err := d.Engine.Desire(ctx, namespace, name, uid, call, values, notesOf(notes)...)
	switch {
	case errors.Is(err, device.ErrUnknown):
		return fmt.Errorf("%w: %w", methods.ErrUnknown, err)
	case errors.Is(err, device.ErrInvalid), errors.Is(err, twin.ErrTooMany), errors.Is(err, twin.ErrTooLong):
		return fmt.Errorf("%w: %w", methods.ErrInvalid, detail(err))
	}
	return err
}

func (d mapperDevices) OfProtocol(protocol string) []mapper.Entry {
	var all []mapper.Entry
	for _, v := range d.Devices(func(p string) bool { return p == protocol }) {
		all = append(all, mapper.Entry{Device: v.Device, Model: v.Model, Born: v.Born})
	}
	return all
}

func (d mapperDevices) Device(namespace, name string) (mapper.Entry, bool) {
	v, ok := d.Engine.Device(namespace, name)
	return mapper.Entry{Device: v.Device, Model: v.Model, Born: v.Born}, ok
}

func (d mapperDevices) ReportState(ctx context.Context, namespace, name, state string) error {
	_, err := d.SetState(ctx, namespace, name, state)
	return refused(err)
}

// mapperMemory, mqttMemory and methodMemory keep what their parts want kept, as notes.
type (
	mapperMemory struct{ *store.Store }
	mqttMemory   struct{ *store.Store }
	methodMemory struct{ *store.Store }
)

func (m methodMemory) Keep(ctx context.Context, notes ...methods.Note) error {
	all := make([]store.Note, len(notes))
	for i, n := range notes {
		all[i] = store.Note(n)
	}
	return m.Store.Keep(ctx, all)
}

func (m methodMemory) All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error {
	return m.Notes(ctx, bucket, visit)
}

func (m mapperMemory) Put(ctx context.Context, bucket, key string, value []byte) error {
	return m.Keep(ctx, []store.Note{{Bucket: bucket, Key: key, Value: value}})
}

func (m mapperMemory) Delete(ctx context.Context, bucket string, keys ...string) error {
	var notes []store.Note
	for _, k := range keys {
		notes = append(notes, store.Note{Bucket: bucket, Key: k})
	}
	return m.Keep(ctx, notes)
}

func (m mapperMemory) All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error {
	return m.Notes(ctx, bucket, visit)
}

func (m mqttMemory) Apply(ctx context.Context, changes []mqtt.Change) error {
	notes := make([]store.Note, len(changes))
	for i, c := range changes {
		notes[i] = store.Note(c)
	}
	return m.Keep(ctx, notes)
}

func (m mqttMemory) All(ctx context.Context, bucket string, visit func(key string, value []byte) error) error {
	return m.Notes(ctx, bucket, visit)
}

// deviceStore presents the store as the engine of devices wants it, and shows its Events at the node, too.
type deviceStore struct {
	*store.Store
	happened func(context.Context, object.Outgoing) error
	log      *slog.Logger
}

func (s deviceStore) Keep(ctx context.Context, notes []device.Note, outgoing ...object.Outgoing) error {
	all := make([]store.Note, len(notes))
	for i, n := range notes {
		all[i] = store.Note(n)
	}
	if err := s.Store.Keep(ctx, all, outgoing...); err != nil {
		return err
	}
	for _, o := range outgoing {
		if o.Key.Kind != object.Events {
			continue
		}
		if err := s.happened(ctx, o); err != nil {
			s.log.Warn("an event of a device is not shown here", "error", err)
		}
	}
	return nil
}
