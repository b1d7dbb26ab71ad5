// Package mqttpush pushes values of a mapper's devices to an MQTT broker: pushMethod mqtt. It is apart from package mapper, so that
// a mapper which does not push this way links no MQTT client.
//
// It promises one connection a broker however many properties push to it, that a broker which is away delays no device, and that
// a value which could not be sent is not sent late: the next one is newer.
package mqttpush

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/mapper"
)

// pool has a client for each broker in use.
type pool struct {
	mu      sync.Mutex // guards clients and their users
	clients map[string]*client
}

type client struct {
	mqtt.Client
	users int
}

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
	u, err := url.Parse(method.GetAddress())
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("mqtt: expected an address such as tcp://192.0.2.1:1883, found %q", method.GetAddress())
	}
	if method.GetTopic() == "" || method.GetQos() < 0 || method.GetQos() > 2 {
		return nil, fmt.Errorf("mqtt: expected a topic and a qos of 0 to 2, found %q and %d", method.GetTopic(), method.GetQos())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[method.GetAddress()]
	if c == nil {
		options := mqtt.NewClientOptions().AddBroker(method.GetAddress()).SetConnectRetry(true).SetConnectRetryInterval(time.Second).
			SetAutoReconnect(true).SetMaxReconnectInterval(10 * time.Second).SetConnectTimeout(5 * time.Second).SetOrderMatters(false)
		c = &client{Client: mqtt.NewClient(options)}
		c.Connect() // goes on in the background
		p.clients[method.GetAddress()] = c
	}
	c.users++
	return &push{pool: p, method: method, client: c}, nil
}

// errAway says that the broker is not connected.
var errAway = errors.New("the broker is not connected")

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
