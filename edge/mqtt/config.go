package mqtt

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Where the broker is.
const (
	Internal = "internal"
	External = "external"
)

// Config parametrizes a Service.
type Config struct {
	// Node is this node's name, which is in the topics of memberships.
	Node string
	// Mode is Internal or External.
	Mode string
	// Broker is used in Mode Internal.
	Broker Broker
	// Server is used in Mode External.
	Server Server
	// MaxRequest is the largest payload, in bytes, of a request about devices. A larger one is answered with code 400.
	MaxRequest int
}

// Broker is the configuration of the broker inside edgecore.
type Broker struct {
	// Listen is host:port, without TLS.
	Listen string
	// Anonymous lets clients without a user name in, with all rights. Only where Listen is a loopback address, and only
	// clients that come from one.
	Anonymous bool
	// ListenTLS is another host:port, with TLS; none if empty. CertFile and KeyFile (PEM) are read again when they change.
	ListenTLS, CertFile, KeyFile string
	Users                        []User
	// MoreUsers: SetUsers brings some, now or later. Without it, and without Users, whoever may come without a name may come with one.
	MoreUsers bool
	// WillGrace is how long clients have to come back after the broker ended out of order, before their wills are published (30 s).
	WillGrace time.Duration
	Limits    Limits
}

// A User may connect with a password.
type User struct {
	Name string
	// Hash is bcrypt's, as htpasswd -B and mkpasswd write it.
	Hash string
	ACL  []Access
}

// Access is what a user may do with the topics that match Filter, an MQTT topic filter. Rights add up; what nothing allows
// is refused.
type Access struct {
	Filter      string
	Read, Write bool
}

// Limits of the broker. Each is positive.
type Limits struct {
	// Payload is the largest message, in bytes. A client that sends a larger one is disconnected before it is read.
	Payload int
	// MessageRate and ByteRate are what one client may send in a second, on average; a client that sends faster is read
	// more slowly. A burst of one second's worth is let through.
	MessageRate, ByteRate int
	// Queue is how many messages wait for one client, and QueueBytes how many bytes of those with QoS 1 and 2.
	Queue, QueueBytes int
	// QueuedBytes is how many bytes with QoS 1 and 2 wait for all clients together. Beyond it each has an equal share, and twice as
	// many is the end.
	QueuedBytes int
	// Connections in all, and from one address. Sessions are those that outlive their connection, in all.
	Connections, ConnectionsPerAddress, Sessions int
	// TopicLength in bytes and TopicLevels bound topics and filters.
	TopicLength, TopicLevels int
	// Subscriptions of one client.
	Subscriptions int
	// RetainedBytes is what all retained messages and their topics may hold.
	RetainedBytes int
	// SessionExpiry is how long a session is kept while its client is away.
	SessionExpiry time.Duration
	// ConnectTimeout bounds the time from accepting a connection to its CONNECT, Stall that of a client that takes nothing of what is sent
	// to it, and Request that of a request about a device.
	ConnectTimeout, Stall, Request time.Duration
}

// Server is a broker that is already there.
type Server struct {
	// URL is tcp://host:port or ssl://host:port.
	URL string
	// User and the file with the password; none if empty.
	User, PasswordFile string
	// CAFile (PEM) is what the broker's certificate is checked against; the system's roots if empty. CertFile and KeyFile are
	// this client's certificate; none if empty.
	CAFile, CertFile, KeyFile string
}

// Default returns the configuration of a broker on loopback for the named node.
func Default(node string) Config {
	return Config{Node: node, Mode: Internal, MaxRequest: 256 << 10, Broker: Broker{Listen: "127.0.0.1:1884", Anonymous: true, Limits: Limits{
		Payload: 1 << 20, MessageRate: 2000, ByteRate: 4 << 20, Queue: 1000, QueueBytes: 4 << 20, QueuedBytes: 64 << 20,
		Connections: 1000, ConnectionsPerAddress: 200, Sessions: 1000, TopicLength: 1024, TopicLevels: 32,
		Subscriptions: 200, RetainedBytes: 16 << 20, SessionExpiry: 7 * 24 * time.Hour,
		ConnectTimeout: 10 * time.Second, Stall: 10 * time.Second, Request: 10 * time.Second,
	}}}
}

// Validate returns every fault of c at once, or nil.
func (c *Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Node == "" || strings.ContainsAny(c.Node, "/+#\x00") {
		fault("node: expected a node's name, found %q", c.Node)
	}
	if c.MaxRequest <= 0 {
		fault("maxRequest: expected a positive number of bytes, found %d", c.MaxRequest)
	}
	switch c.Mode {
	case Internal:
		faults = append(faults, c.Broker.faults()...)
	case External:
		u, err := url.Parse(c.Server.URL)
		if err != nil || u.Scheme != "tcp" && u.Scheme != "ssl" || u.Port() == "" {
			fault("server: expected tcp://host:port or ssl://host:port, found %q", c.Server.URL)
		}
		if (c.Server.CertFile == "") != (c.Server.KeyFile == "") {
			fault("server: expected certificate and key, or neither")
		}
	default:
		fault("mode: expected %s or %s, found %q", Internal, External, c.Mode)
	}
	return errors.Join(faults...)
}

func (b *Broker) faults() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	host, _, err := net.SplitHostPort(b.Listen)
	if err != nil {
		fault("listen: expected host:port, found %q", b.Listen)
	} else if b.Anonymous && !loopback(host) {
		fault("anonymous: expected a loopback address to listen on, found %q; with others every client needs a user", b.Listen)
	}
	if b.ListenTLS != "" {
		if _, _, err := net.SplitHostPort(b.ListenTLS); err != nil {
			fault("listenTLS: expected host:port, found %q", b.ListenTLS)
		}
		if b.CertFile == "" || b.KeyFile == "" {
			fault("listenTLS: expected a certificate and a key beside it")
		}
	}
	faults = append(faults, faultsOf(b.Users)...)
	l := b.Limits
	for name, n := range map[string]int{"payload": l.Payload, "messageRate": l.MessageRate, "byteRate": l.ByteRate, "queue": l.Queue,
		"queueBytes": l.QueueBytes, "queuedBytes": l.QueuedBytes, "connections": l.Connections, "connectionsPerAddress": l.ConnectionsPerAddress, "sessions": l.Sessions,
		"topicLength": l.TopicLength, "topicLevels": l.TopicLevels, "subscriptions": l.Subscriptions, "retainedBytes": l.RetainedBytes,
		"sessionExpiry": int(l.SessionExpiry / time.Second), "connectTimeout": int(l.ConnectTimeout), "stall": int(l.Stall), "request": int(l.Request)} {
		if n <= 0 {
			fault("limits.%s: expected a positive number, found %d", name, n)
		}
	}
	if l.Queue > 32767 {
		fault("limits.queue: expected at most 32767, found %d", l.Queue)
	}
	if l.Payload > 200<<20 {
		fault("limits.payload: expected at most %d bytes, found %d", 200<<20, l.Payload)
	}
	return faults
}

func faultsOf(users []User) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	seen := map[string]bool{}
	for i, u := range users {
		if u.Name == "" || seen[u.Name] {
			fault("users[%d]: expected a name that is there once, found %q", i, u.Name)
		}
		seen[u.Name] = true
		if _, err := bcrypt.Cost([]byte(u.Hash)); err != nil {
			fault("users[%d]: expected a bcrypt hash", i)
		}
		for j, a := range u.ACL {
			if !validFilter(a.Filter) {
				fault("users[%d].acl[%d]: expected a topic filter, found %q", i, j, a.Filter)
			}
		}
	}
	return faults
}

// loopback reports whether host is an address of this machine alone.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
