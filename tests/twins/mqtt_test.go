package twins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// payload is what requests, results and deltas carry, in so far as devices look at it.
type payload struct {
	EventID string              `json:"event_id,omitempty"`
	Twin    map[string]twinPart `json:"twin,omitempty"`
	Code    int                 `json:"code,omitempty"`
	Reason  string              `json:"reason,omitempty"`
}

type twinPart struct {
	Expected        *valuePart `json:"expected,omitempty"`
	Actual          *valuePart `json:"actual,omitempty"`
	ExpectedVersion *version   `json:"expected_version,omitempty"`
}

type valuePart struct {
	Value string `json:"value"`
}

type version struct {
	Cloud int64 `json:"cloud"`
	Edge  int64 `json:"edge"`
}

// errLost says that a connection ended before the answer came.
var errLost = errors.New("the connection is lost")

// conn is one connection to the broker, whose messages go to a handler in order.
type conn struct {
	paho.Client
	lost chan struct{} // closed with the socket: the library does not tell of every end
	end  func()        // closes the socket, as a cable that is pulled does

	mu      sync.Mutex // guards all below
	waiting map[string]chan payload
}

// connect opens a connection. What arrives is handed to news, results of requests to who waits for them.
func connect(broker, client string, clean bool, news func(payload)) (*conn, error) {
	c := &conn{lost: make(chan struct{}), waiting: map[string]chan payload{}}
	lost := sync.OnceFunc(func() { close(c.lost) })
	o := paho.NewClientOptions().AddBroker("tcp://" + broker).SetClientID(client).SetCleanSession(clean).SetAutoReconnect(false).
		SetConnectTimeout(5 * time.Second).
		SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
			dialled, err := net.DialTimeout("tcp", broker, 5*time.Second)
			if err != nil {
				return nil, err
			}
			s := &socket{dialled, lost}
			c.end = func() { _ = s.Close() }
			return s, nil
		}).SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
		var p payload
		if json.Unmarshal(m.Payload(), &p) != nil {
			return // nothing that a device would know
		}
		c.mu.Lock()
		answer := c.waiting[p.EventID]
		delete(c.waiting, p.EventID)
		c.mu.Unlock()
		if answer != nil {
			answer <- p
		} else if news != nil {
			news(p)
		}
	})
	c.Client = paho.NewClient(o)
	t := c.Connect()
	if !t.WaitTimeout(10*time.Second) || t.Error() != nil {
		c.Disconnect(0)
		return nil, fmt.Errorf("connect: %w", errors.Join(t.Error(), errLost))
	}
	return c, nil
}

// socket says when it is closed.
type socket struct {
	net.Conn
	closed func()
}

func (s *socket) Close() error {
	s.closed()
	return s.Conn.Close()
}

func (c *conn) subscribe(filters ...string) error {
	all := map[string]byte{}
	for _, f := range filters {
		all[f] = 1
	}
	return c.wait(c.SubscribeMultiple(all, nil))
}

func (c *conn) wait(t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-c.lost:
		return errLost
	}
}

// ask makes a request of a device and waits for the result.
func (c *conn) ask(topic string, p payload) (payload, error) {
	answer := make(chan payload, 1)
	c.mu.Lock()
	c.waiting[p.EventID] = answer
	c.mu.Unlock()
	body, err := json.Marshal(p)
	if err != nil {
		return payload{}, err
	}
	token := c.Publish(topic, 1, false, body)
	if err := c.wait(token); err != nil {
		return payload{}, err
	}
	select {
	case r := <-answer:
		return r, nil
	case <-c.lost:
		return payload{}, errLost
	}
}

func topicOf(namespace, name, what string) string {
	return "$hw/events/device/" + namespace + "/" + name + "/" + what
}

// client is a thing that speaks MQTT itself: it takes what is desired from deltas, tells by their versions which are old, and reports
// each value until it was acknowledged, and never again.
type client struct {
	*thing
	namespace, broker string
	wake              chan struct{} // holds one while dirty is new

	mu      sync.Mutex // guards all below
	conn    *conn      // nil while there is none
	applied map[string]version
	dirty   map[string]bool // properties whose value is not acknowledged
	events  int
	refused string // what the edge said last instead of yes
}

func newClient(t *thing, namespace, broker string) *client {
	return &client{thing: t, namespace: namespace, broker: broker, wake: make(chan struct{}, 1), applied: map[string]version{},
		dirty: map[string]bool{"set": true, "mode": true, "flow": true}}
}

// turn is a change of a property by the device itself.
func (c *client) turn(property, value string) {
	c.thing.turn(property, value)
	c.stir(property)
}

func (c *client) stir(properties ...string) {
	c.mu.Lock()
	for _, p := range properties {
		c.dirty[p] = true
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// drop cuts the connection, without a DISCONNECT.
func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.end()
	}
}

// take does what a delta or a twin desires, unless it is older than what was done.
func (c *client) take(p payload) {
	for property, part := range p.Twin {
		if part.Expected == nil || part.ExpectedVersion == nil {
			continue
		}
		c.mu.Lock()
		was, now := c.applied[property], *part.ExpectedVersion
		news := now.Cloud+now.Edge > was.Cloud+was.Edge
		if news {
			c.applied[property] = now
		}
		c.mu.Unlock()
		if news && part.Expected.Value != c.value(property) {
			c.write(property, part.Expected.Value)
			c.stir(property)
		}
	}
}

// run lives until ctx ends.
func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.session(ctx); err != nil && ctx.Err() == nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (c *client) session(ctx context.Context) error {
	conn, err := connect(c.broker, c.namespace+"-"+c.name, false, c.take)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
		conn.end()
		go conn.Disconnect(0) // it may wait for what the socket's end has ended
	}()
	if err := conn.subscribe(topicOf(c.namespace, c.name, "twin/update/delta"), topicOf(c.namespace, c.name, "twin/update/result"),
		topicOf(c.namespace, c.name, "twin/get/result")); err != nil {
		return err
	}
	// What was desired while nobody listened.
	twin, err := conn.ask(topicOf(c.namespace, c.name, "twin/get"), payload{EventID: c.event()})
	if err != nil {
		return err
	}
	c.take(twin)
	for {
		if err := c.report(conn); err != nil {
			return err
		}
		select {
		case <-c.wake:
		case <-conn.lost:
			return errLost
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *client) event() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events++
	return fmt.Sprint(c.name, "-", c.events)
}

// report says what is not acknowledged, until it is.
func (c *client) report(conn *conn) error {
	c.mu.Lock()
	twin := map[string]twinPart{}
	for p := range c.dirty {
		twin[p] = twinPart{Actual: &valuePart{c.value(p)}}
	}
	c.dirty = map[string]bool{}
	c.mu.Unlock()
	if len(twin) == 0 {
		return nil
	}
	answer, err := conn.ask(topicOf(c.namespace, c.name, "twin/update"), payload{EventID: c.event(), Twin: twin})
	if err == nil && answer.Code != 0 {
		err = fmt.Errorf("refused with %d: %s", answer.Code, answer.Reason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = ""
	if err != nil {
		c.refused = err.Error()
		for p := range twin {
			c.dirty[p] = true
		}
	}
	return err
}

// unsaid says which values are not acknowledged.
func (c *client) unsaid() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dirty) == 0 {
		return ""
	}
	return fmt.Sprintf("%s has not got through with %v: %s", c.name, c.dirty, c.refused)
}
