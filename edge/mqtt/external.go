package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/tether-edge/tether/common/backoff"
)

// A client serves devices over a broker that is already there. It dials by itself: paho's own retry neither jitters nor
// tells a refusal from an outage, and subscribes again only to what its session had.
//
// Its session outlives its connections, and a request is acknowledged once it was answered: what comes while edgecore is away, or was not
// done when it ended, is the broker's to give again.
type client struct {
	cfg      Server
	node     string
	answerer *answerer
	inbox    [clientWorkers]chan incoming // by device, so that the order of one device's requests holds
	waiting  atomic.Int64                 // requests that are in the inboxes or being answered
	idle     chan struct{}                // holds one when there may be none left
	sessions int64                        // connections tried; of the goroutine that serves
	// What came over connections from fresh on, and before again, comes again. What came earlier the broker has forgotten.
	fresh, again atomic.Int64

	mu    sync.Mutex // guards what follows
	conn  paho.Client
	lasts context.Context // as long as conn
}

// incoming is a request with the connection that it came by.
type incoming struct {
	paho.Message
	session int64
}

// errBehind ends a connection over which requests came faster than they could be answered.
var errBehind = errors.New("more requests came than can wait")

const (
	clientInbox   = 256
	clientTimeout = 10 * time.Second
	clientRetry   = time.Second
	clientMaximum = time.Minute
	clientWorkers = 4
)

func newClient(cfg Server, node string, a *answerer) *client {
	c := &client{cfg: cfg, node: node, answerer: a, idle: make(chan struct{}, 1)}
	for i := range c.inbox {
		c.inbox[i] = make(chan incoming, clientInbox)
	}
	return c
}

// serve keeps a connection until ctx is done; ready is called when there is one.
func (c *client) serve(ctx context.Context, ready func()) error {
	var workers sync.WaitGroup
	for _, inbox := range c.inbox {
		workers.Go(func() { c.work(ctx, inbox) })
	}
	defer workers.Wait()
	pause, behind := backoff.New(backoff.Config{Base: clientRetry, Max: clientMaximum}), backoff.New(backoff.Config{Base: clientRetry, Max: clientRetry})
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx, ready)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errBehind) {
			c.answerer.log.Warn("requests come from the MQTT broker faster than they can be answered; connecting anew for those that have to wait")
			if time.Since(began) < clientRetry && behind.Wait(ctx) != nil {
				break
			}
			pause = backoff.New(backoff.Config{Base: clientRetry, Max: clientMaximum})
			continue
		}
		if time.Since(began) > clientMaximum {
			pause = backoff.New(backoff.Config{Base: clientRetry, Max: clientMaximum})
		}
		c.answerer.log.Warn("the MQTT broker is not there", "server", c.cfg.URL, "error", err)
		if pause.Wait(ctx) != nil {
			break
		}
	}
	return nil
}

// session is one connection, from dialling to its loss.
func (c *client) session(ctx context.Context, ready func()) error {
	lost, behind := make(chan error, 1), make(chan struct{})
	c.sessions++
	opts, err := c.options(lost, c.receiver(c.sessions, behind))
	if err != nil {
		c.answerer.metrics.ext.WithLabelValues("config").Inc()
		return err
	}
	conn := paho.NewClient(opts)
	defer conn.Disconnect(250)
	lasts, end := context.WithCancel(ctx)
	defer end()
	c.set(conn, lasts) // what the session kept comes, and is answered, before anything is subscribed to
	defer c.set(nil, nil)
	connected := conn.Connect()
	if err := settle(ctx, connected); err != nil {
		c.answerer.metrics.ext.WithLabelValues("failed").Inc()
		return fmt.Errorf("connect: %w", err)
	}
	if connected.(*paho.ConnectToken).SessionPresent() {
		c.again.Store(c.sessions)
	} else {
		c.fresh.Store(c.sessions)
	}
	filters := map[string]byte{}
	for _, f := range requestFilters(c.node) {
		filters[f] = 1
	}
	token := conn.SubscribeMultiple(filters, nil)
	if err := settle(ctx, token); err != nil {
		c.answerer.metrics.ext.WithLabelValues("failed").Inc()
		return fmt.Errorf("subscribe: %w", err)
	}
	for f, code := range token.(*paho.SubscribeToken).Result() {
		if code > 2 {
			c.answerer.metrics.ext.WithLabelValues("denied").Inc()
			return fmt.Errorf("the broker refuses to let us subscribe to %s", f)
		}
	}
	c.answerer.metrics.ext.WithLabelValues("ok").Inc()
	c.answerer.metrics.connections.Set(1)
	defer c.answerer.metrics.connections.Set(0)
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-lost:
			return err
		case <-behind:
			c.answerer.metrics.throttled.Inc()
			behind = nil
		case <-c.idle:
		}
		// What has come is answered and acknowledged before the rest is asked for again.
		if behind == nil && c.waiting.Load() == 0 {
			return errBehind
		}
	}
}

func (c *client) set(conn paho.Client, lasts context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.lasts = conn, lasts
}

func (c *client) options(lost chan<- error, receive paho.MessageHandler) (*paho.ClientOptions, error) {
	password := ""
	if c.cfg.PasswordFile != "" {
		b, err := os.ReadFile(c.cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("password: %w", err)
		}
		password = string(bytes.TrimRight(b, "\r\n"))
	}
	secure, err := c.tls()
	if err != nil {
		return nil, err
	}
	return paho.NewClientOptions().AddBroker(c.cfg.URL).SetClientID("tether-" + c.node).SetUsername(c.cfg.User).SetPassword(password).
		SetTLSConfig(secure).SetProtocolVersion(4).SetCleanSession(false).SetAutoAckDisabled(true).SetDefaultPublishHandler(receive).SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(clientTimeout).SetWriteTimeout(clientTimeout).SetKeepAlive(30 * time.Second).SetOrderMatters(true).
		SetConnectionLostHandler(func(_ paho.Client, err error) {
			select {
			case lost <- err:
			default:
			}
		}), nil
}

func (c *client) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.cfg.CAFile != "" {
		b, err := os.ReadFile(c.cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA: %w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("CA: expected PEM certificates in %s, found none", c.cfg.CAFile)
		}
	}
	if c.cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.cfg.CertFile, c.cfg.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// receiver takes messages off paho's goroutine, which must not wait: it also reads the answers to pings. From the first that finds no place
// on it takes none, as later ones must not be answered before it. One with QoS 0 does not come again, and is lost alone.
func (c *client) receiver(session int64, behind chan<- struct{}) paho.MessageHandler {
	full := false
	return func(_ paho.Client, m paho.Message) {
		if m.Retained() || strings.ContainsAny(m.Topic(), "+#\x00") {
			c.answerer.metrics.denied.WithLabelValues("retained").Inc()
			m.Ack()
			return
		}
		r, _ := parseTopic(m.Topic())
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(r.namespace + "/" + r.name))
		c.waiting.Add(1)
		if !full {
			select {
			case c.inbox[sum.Sum32()%clientWorkers] <- incoming{m, session}:
				return
			default:
			}
		}
		c.done()
		switch {
		case m.Qos() == 0:
			c.answerer.metrics.dropped.WithLabelValues("inbox").Inc()
		case !full:
			full = true
			close(behind)
		}
	}
}

// done notes that a request waits no more.
func (c *client) done() {
	if c.waiting.Add(-1) > 0 {
		return
	}
	select {
	case c.idle <- struct{}{}:
	default:
	}
}

func (c *client) work(ctx context.Context, inbox <-chan incoming) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-inbox:
			c.serveOne(ctx, m)
			c.done()
		}
	}
}

// serveOne answers a request, but for one that the broker gives again because its connection ended first.
func (c *client) serveOne(ctx context.Context, m incoming) {
	if m.Qos() > 0 && m.session >= c.fresh.Load() && m.session < c.again.Load() {
		return
	}
	r := c.answerer.answer(ctx, m.Topic(), m.Payload())
	if ctx.Err() != nil {
		return // it may not have been done; the broker gives it to the next process
	}
	if r != nil && !c.tell(*r) {
		return // it is asked for again by who has heard nothing
	}
	m.Ack()
}

// publish publishes as the edge. Without a connection the message is dropped and counted.
func (c *client) publish(m message) { c.tell(m) }

// tell is publish, and reports whether there was a connection that lasted until the broker had the message, or gave no answer in time.
func (c *client) tell(m message) bool {
	c.mu.Lock()
	conn, lasts := c.conn, c.lasts
	c.mu.Unlock()
	err, there := errors.New("not connected"), conn != nil
	if there {
		// paho says nothing of a message that was under way when its connection was lost.
		err = settle(lasts, conn.Publish(m.topic, 1, false, m.payload))
		there = err == nil || lasts.Err() == nil && !errors.Is(err, paho.ErrNotConnected)
	}
	if err != nil {
		c.answerer.metrics.dropped.WithLabelValues("edge").Inc()
		c.answerer.log.Debug("cannot publish", "topic", m.topic, "error", err)
	}
	return there
}

// settle waits for what a token stands for.
func settle(ctx context.Context, t paho.Token) error {
	limit := time.NewTimer(clientTimeout)
	defer limit.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return errors.New("no answer in time")
	}
}
