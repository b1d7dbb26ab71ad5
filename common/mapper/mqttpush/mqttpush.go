// Package mqttpush pushes values of a mapper's devices to an MQTT broker: pushMethod mqtt. It is apart from package mapper, so that
// a mapper which does not push this way links no MQTT client.
//
// It promises one connection a broker however many properties push to it, that a broker which is away delays no device, and that
// of what could not be sent while it was away the newest value of each property goes when it is there. A value for which a broker ends the
// connection does that once, and not to each connection that follows.
package mqttpush

import (
	"context"
	"fmt"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/mapper"
)

// pool has a client for each broker in use.
type pool struct {
	mu      sync.Mutex // guards clients and their users
	clients map[string]*client
}

// client is of one broker. Its library would send what was not acknowledged again after it connects again by itself, so a lost connection
// is followed by a new one, in which nothing is left of it.
type client struct {
	mqtt.Client
	users int
	begun time.Time // when it was to connect last
}

// between is the least time from one connection's begin to the next one's.
const between = time.Second

// New returns what Options.Push["mqtt"] takes.
func New() mapper.NewPush {
	p := &pool{clients: map[string]*client{}}
	return p.push
}

type push struct {
	pool   *pool
	method *dmi.PushMethodMQTT
	client *client
}

func (p *pool) push(m *dmi.PushMethod) (mapper.Push, error) {
	method := m.GetMqtt()
	if err := device.CheckMQTTPush(method.GetAddress(), method.GetTopic(), method.GetQos()); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[method.GetAddress()]
	if c == nil {
		c = &client{}
		options := mqtt.NewClientOptions().AddBroker(method.GetAddress()).SetConnectRetry(true).SetConnectRetryInterval(between).
			SetAutoReconnect(false).SetConnectTimeout(5 * time.Second).SetOrderMatters(false).
			SetConnectionLostHandler(func(mqtt.Client, error) { p.again(c) })
		c.Client = mqtt.NewClient(options)
		c.connect()
		p.clients[method.GetAddress()] = c
	}
	c.users++
	return &push{pool: p, method: method, client: c}, nil
}

// again connects a client that lost its connection.
func (p *pool) again(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	time.AfterFunc(time.Until(c.begun.Add(between)), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c.users > 0 {
			c.connect()
		}
	})
}

// connect goes on in the background. Called with the pool's mu held.
func (c *client) connect() {
	c.begun = time.Now()
	c.Connect()
}

// errAway says that the broker is not connected.
var errAway = fmt.Errorf("%w: the broker is not connected", mapper.ErrAway)

// Push publishes a text of time, topic and value, as KubeEdge's mappers do.
func (p *push) Push(ctx context.Context, s mapper.Sample) error {
	if !p.client.IsConnectionOpen() {
		return errAway
	}
	text := "time is " + s.Text() + "  " + p.method.GetTopic() + ": " + s.Value
	token := p.client.Publish(p.method.GetTopic(), byte(p.method.GetQos()), p.method.GetRetained(), text)
	select {
	case <-token.Done():
		return token.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *push) Close() error {
	p.pool.mu.Lock()
	p.client.users--
	last := p.client.users == 0
	if last {
		delete(p.pool.clients, p.method.GetAddress())
	}
	p.pool.mu.Unlock()
	if last {
		p.client.Disconnect(100)
	}
	return nil
}
