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
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/tether-edge/tether/common/backoff"
)

// A client serves devices over a broker that is already there. It dials by itself: paho's own retry neither jitters nor
// tells a refusal from an outage, and subscribes again only to what its session had.
type client struct {
	cfg      Server
	node     string
	answerer *answerer
	inbox    [clientWorkers]chan message // by device, so that the order of one device's requests holds

	mu   sync.Mutex // guards conn
	conn paho.Client
}

const (
	clientInbox   = 256
	clientTimeout = 10 * time.Second
	clientRetry   = time.Second
	clientMaximum = time.Minute
	clientWorkers = 4
)

func newClient(cfg Server, node string, a *answerer) *client {
	c := &client{cfg: cfg, node: node, answerer: a}
	for i := range c.inbox {
		c.inbox[i] = make(chan message, clientInbox)
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
	pause := backoff.New(backoff.Config{Base: clientRetry, Max: clientMaximum})
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx, ready)
		if ctx.Err() != nil {
			break
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
	lost := make(chan error, 1)
	opts, err := c.options(lost)
	if err != nil {
		c.answerer.metrics.ext.WithLabelValues("config").Inc()
		return err
	}
	conn := paho.NewClient(opts)
	defer conn.Disconnect(250)
	if err := settle(ctx, conn.Connect()); err != nil {
		c.answerer.metrics.ext.WithLabelValues("failed").Inc()
		return fmt.Errorf("connect: %w", err)
	}
	filters := map[string]byte{}
	for _, f := range requestFilters(c.node) {
		filters[f] = 1
	}
	token := conn.SubscribeMultiple(filters, c.receive)
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
	c.set(conn)
	defer func() {
		c.set(nil)
		c.answerer.metrics.connections.Set(0)
	}()
	ready()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-lost:
		return err
	}
}

func (c *client) set(conn paho.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
}

func (c *client) options(lost chan<- error) (*paho.ClientOptions, error) {
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
		SetTLSConfig(secure).SetProtocolVersion(4).SetCleanSession(true).SetAutoReconnect(false).SetConnectRetry(false).
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

// receive takes a message off paho's goroutine, which must not wait: it also reads the answers to pings.
func (c *client) receive(_ paho.Client, m paho.Message) {
	if m.Retained() || strings.ContainsAny(m.Topic(), "+#\x00") {
		c.answerer.metrics.denied.WithLabelValues("retained").Inc()
		return
	}
	r, _ := parseTopic(m.Topic())
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(r.namespace + "/" + r.name))
	select {
	case c.inbox[sum.Sum32()%clientWorkers] <- message{m.Topic(), m.Payload()}:
	default:
		c.answerer.metrics.dropped.WithLabelValues("inbox").Inc()
	}
}

func (c *client) work(ctx context.Context, inbox <-chan message) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-inbox:
			if r := c.answerer.answer(ctx, m.topic, m.payload); r != nil {
				c.publish(*r)
			}
		}
	}
}

// publish publishes as the edge. Without a connection the message is dropped and counted.
func (c *client) publish(m message) {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	err := errors.New("not connected")
	if conn != nil {
		err = settle(context.Background(), conn.Publish(m.topic, 1, false, m.payload))
	}
	if err != nil {
		c.answerer.metrics.dropped.WithLabelValues("edge").Inc()
		c.answerer.log.Debug("cannot publish", "topic", m.topic, "error", err)
	}
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
