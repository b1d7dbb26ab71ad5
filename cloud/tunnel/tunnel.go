package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/transport"
)

// AnnotationPort on a Node is the port of CloudCore at which its kubelet is asked.
const AnnotationPort = "tether.io/kubelet-port"

// Config says where kubelets are asked.
type Config struct {
	// Address is the IP address or DNS name by which the API server reaches this CloudCore.
	Address string
	// BindAddress is the IP address to listen on; empty means every one.
	BindAddress string
	// FirstPort to LastPort are given to nodes, the lowest that is free first.
	FirstPort, LastPort int
	// MaxRequests bounds the requests to one node that are under way, three quarters of it those of one caller.
	MaxRequests int
}

// Cache is the cluster as the shared cache knows it.
type Cache interface {
	Object(key object.Key) (o object.Object, ok bool)
	WaitSynced(ctx context.Context) error
	// Keys returns the key of every object of the kind.
	Keys(kind object.ID) []object.Key
	// Follow has notify called, some time, with the key of every object of the kinds and of each that changes.
	Follow(kinds []object.ID, notify func([]object.Key)) (cancel func())
}

// Deps are what a Server works with; all are required.
type Deps struct {
	Client kubernetes.Interface
	Cache  Cache
	// IsEdge tells the Nodes of edges.
	IsEdge func(*corev1.Node) bool
	// Open opens a stream to a node's kubelet; see hub.Open.
	Open func(ctx context.Context, node string) (net.Conn, error)
	// Holds reports whether this CloudCore holds the node; Holder is the host of the one that does, empty if it is this one or
	// none.
	Holds  func(node string) bool
	Holder func(ctx context.Context, node string) (host string, err error)
	// Doubt is told of a node that this CloudCore holds and that does not answer: another may hold it by now.
	Doubt func(node string)
	// Busy reports whether an error of Open says that the node is there and has no room.
	Busy func(error) bool
	// LastHeard is when a node was last heard of; zero if that is not known.
	LastHeard   func(node string) time.Time
	Callers     Callers
	Certificate func() *tls.Certificate
	Log         *slog.Logger
	Registerer  prometheus.Registerer
}

// Server is the endpoint. Make it with New.
type Server struct {
	cfg   Config
	deps  Deps
	m     *metrics
	proxy *httputil.ReverseProxy
	queue workqueue.TypedRateLimitingInterface[string]
	http  *http.Server
	// merged accepts from the ports of all nodes.
	merged *merged
	// passing accepts those that are to be passed on, and passed has the places of those that are.
	passing *merged
	passed  *transport.Places
	circles circles

	// mu guards all below.
	mu    sync.Mutex
	nodes map[string]*port
	book  *book
}

// port is a node's.
type port struct {
	number   int          // 0 until it is given
	listener net.Listener // nil while it is not listened on
	// holder held the node when that was asked.
	holder string
	asked  time.Time
	// given is closed once the node has a port.
	given chan struct{}
	// callers has a place for each request under way; nil before the first.
	callers *transport.Places
}

// New returns a Server that does not listen yet.
func New(cfg Config, deps Deps) *Server {
	s := &Server{cfg: cfg, deps: deps, nodes: map[string]*port{}, book: newBook(cfg.FirstPort, cfg.LastPort), passing: newMerged(), passed: transport.NewPlaces(maxPassed),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 30*time.Second))}
	s.m = newMetrics(deps.Registerer, s.ports)
	s.proxy = s.newProxy()
	s.http, s.merged = s.server(), newMerged()
	return s
}

func (s *Server) ports() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.nodes {
		if p.listener != nil {
			n++
		}
	}
	return n
}

// workers is how many Nodes are worked on at once.
const workers = 8

// Start gives each edge Node its port and serves them until ctx is done.
func (s *Server) Start(ctx context.Context) error {
	if err := s.deps.Cache.WaitSynced(ctx); err != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer s.closeAll() // once no worker opens any
	defer all.Wait()
	defer cancel()
	if s.deps.Callers.Run != nil {
		all.Go(func() { s.deps.Callers.Run(ctx) })
	}
	s.recall()
	unfollow := s.deps.Cache.Follow([]object.ID{object.Nodes}, func(keys []object.Key) {
		for _, k := range keys {
			s.queue.Add(k.Name)
		}
	})
	for range workers {
		all.Go(func() { s.work(ctx) })
	}
	all.Go(func() { s.passOn(ctx, transport.NewFairListener(s.passing, maxPassing, passingLife)) })
	context.AfterFunc(ctx, func() {
		unfollow()
		s.queue.ShutDown()
		_ = s.passing.Close()
	})
	// What is relayed now ends with the sessions that carry it.
	if err := transport.ServeHTTPS(ctx, s.http, s.merged, maxHandshakes, 2*handshakeTimeout); err != nil {
		return fmt.Errorf("serve the kubelets' ports: %w", err)
	}
	return nil
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.nodes {
		p.close()
	}
}

// recall notes the ports that Nodes have, before any is given: a node that is looked at early must not get another's. Of
// two that say the same the older one has it.
func (s *Server) recall() {
	var nodes []*corev1.Node
	for _, k := range s.deps.Cache.Keys(object.Nodes) {
		if n := s.node(k.Name); n != nil && s.noted(n) > 0 {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, older)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range nodes {
		s.book.claim(n.Name, s.noted(n), func(string) bool { return false })
	}
}

func (s *Server) work(ctx context.Context) {
	for {
		name, quit := s.queue.Get()
		if quit {
			return
		}
		if err := s.sync(ctx, name); err != nil {
			if ctx.Err() == nil {
				s.m.failures.Inc()
				s.deps.Log.Warn("a node has no port for its kubelet, trying again", "node", name, "error", err)
			}
			s.queue.AddRateLimited(name)
		} else {
			s.queue.Forget(name)
		}
		s.queue.Done(name)
	}
}

// node is a Node of an edge, nil if there is none of that name.
func (s *Server) node(name string) *corev1.Node {
	o, ok := s.deps.Cache.Object(object.Key{Kind: object.Nodes, Name: name})
	if !ok {
		return nil
	}
	n, ok := o.(*corev1.Node)
	if !ok || !s.deps.IsEdge(n) {
		return nil
	}
	return n
}

// noted is the port in a Node's annotation, 0 if there is none of ours.
func (s *Server) noted(n *corev1.Node) int {
	number, err := strconv.Atoi(n.Annotations[AnnotationPort])
	if err != nil || number < s.cfg.FirstPort || number > s.cfg.LastPort {
		return 0
	}
	return number
}

// errChanged says that a Node is another than the one that was looked at.
var errChanged = errors.New("the Node changed meanwhile")

// noteTries bounds how often a Node is read again that others write to at the same time.
const noteTries = 5

// sync brings one node's port in order. One node is worked on by one worker at a time.
func (s *Server) sync(ctx context.Context, name string) error {
	n := s.node(name)
	if n == nil {
		s.close(name)
		return nil
	}
	for try := 1; ; try++ {
		err := s.settle(ctx, n)
		if !errors.Is(err, errChanged) || try == noteTries {
			return err
		}
		n, err = s.deps.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil // the cache will say so
		}
		if err != nil {
			return fmt.Errorf("read node %s: %w", name, err)
		}
	}
}

// settle gives a Node its port, notes that on it, and listens. A port that is new is listened on before it is noted.
func (s *Server) settle(ctx context.Context, n *corev1.Node) error {
	if n.DeletionTimestamp != nil || !s.deps.IsEdge(n) {
		return nil
	}
	noted := s.noted(n)
	number, err := s.choose(n, noted)
	if err != nil {
		return err
	}
	if number != noted {
		if err := s.note(ctx, n, number); err != nil {
			return err
		}
	}
	err = s.give(n.Name, number)
	if errors.Is(err, errChanged) {
		return err
	}
	return errors.Join(err, s.correct(ctx, n, number))
}

// choose returns the node's port. That is what its Node notes, whichever CloudCore wrote it, unless another Node notes the
// same: then the node keeps what it was given, or the older Node has it. Without a note it is what the node was given, or a
// new one.
func (s *Server) choose(n *corev1.Node, noted int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, given := s.nodes[n.Name], 0
	if p != nil {
		given = p.number
	}
	if noted > 0 && noted != given {
		rival := s.rival(n.Name, noted)
		if given > 0 && rival != nil {
			return given, nil
		}
		had := s.book.ports[n.Name]
		if ok, loser := s.book.claim(n.Name, noted, func(string) bool { return rival == nil || older(n, rival) < 0 }); ok {
			s.revoke(loser)
			if p != nil && had != noted { // another CloudCore may have noted what this one just listens on
				p.close()
			}
			return noted, nil
		}
	}
	if given > 0 {
		return given, nil
	}
	return s.next(n.Name)
}

// next gives a node a port that its Node does not note yet, and opens it: one that another process has is not given. Called
// with mu held.
func (s *Server) next(name string) (int, error) {
	for {
		number, err := s.book.next(name, time.Now())
		if err != nil {
			return 0, err
		}
		if err := s.open(s.port(name), name, number); !errors.Is(err, syscall.EADDRINUSE) {
			return number, nil // what else hinders it may pass, and give says it
		}
		s.deps.Log.Warn("another process has a port for a kubelet, taking the next one", "node", name, "port", number)
		s.book.reject(name, time.Now())
	}
}

// open has a node's port listened on, if it is not. Called with mu held.
func (s *Server) open(p *port, name string, number int) error {
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.cfg.BindAddress, strconv.Itoa(number)))
	if err != nil {
		return fmt.Errorf("listen for node %s: %w: end what uses the port, or keep it from being used (net.ipv4.ip_local_reserved_ports)", name, err)
	}
	p.listener = l
	go accept(l, func(c net.Conn) { s.take(connOf{c, name, number}) })
	return nil
}

// rival is the Node of another that has a port and notes it too; nil if there is none. Two CloudCores may give one port to two
// nodes at the same moment, and each must decide alike, so what only this one knows does not count. Called with mu held.
func (s *Server) rival(name string, number int) *corev1.Node {
	other := s.book.nodes[number]
	if other == "" || other == name {
		return nil
	}
	if n := s.node(other); n != nil && s.noted(n) == number {
		return n
	}
	return nil
}

// older orders Nodes by age.
func older(a, b *corev1.Node) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// revoke closes the port of a node that lost it to another, and has the node get a new one. Who waits for a port waits on.
// Called with mu held.
func (s *Server) revoke(name string) {
	if name == "" {
		return
	}
	s.forget(name)
	s.queue.Add(name)
}

// port is the record of a node's port. Called with mu held.
func (s *Server) port(name string) *port {
	p := s.nodes[name]
	if p == nil {
		p = &port{given: make(chan struct{})}
		s.nodes[name] = p
	}
	return p
}

// note writes the port into the Node, if that is still as it was looked at: errChanged otherwise.
func (s *Server) note(ctx context.Context, n *corev1.Node, number int) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion,
		"annotations": map[string]any{AnnotationPort: strconv.Itoa(number)}}})
	if err != nil {
		return fmt.Errorf("encode the port of node %s: %w", n.Name, err)
	}
	_, err = s.deps.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "cloudcore"})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("note port %d on node %s: %w", number, n.Name, err)
	}
	return nil
}

// correct puts the port right that a Node's status shows, where it was shown before the node lost it to another: its
// kubelet may not report for minutes.
func (s *Server) correct(ctx context.Context, n *corev1.Node, number int) error {
	shown := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if n.Annotations[AnnotationAddresses] == "" || shown == number {
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID},
		"status": map[string]any{"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": number}}}})
	if err != nil {
		return fmt.Errorf("encode the port of node %s: %w", n.Name, err)
	}
	_, err = s.deps.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "cloudcore"}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone or another; the cache will say so
	}
	if err != nil {
		return fmt.Errorf("show port %d on node %s: %w", number, n.Name, err)
	}
	return nil
}

// give makes the port the node's and opens it, if it is not open. It does neither, and says errChanged, where the port was
// lost to another node while it was noted.
func (s *Server) give(name string, number int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.book.ports[name] != number {
		return errChanged
	}
	p := s.port(name)
	p.number = number
	select {
	case <-p.given:
	default:
		close(p.given)
	}
	return s.open(p, name, number)
}

// close closes the port of a node whose Node is gone. Who waits for a port waits on.
func (s *Server) close(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.leave(name, time.Now())
	s.forget(name)
}

// forget closes a node's port and forgets it, but for who waits for one. Called with mu held.
func (s *Server) forget(name string) {
	p := s.nodes[name]
	if p == nil {
		return
	}
	p.close()
	if p.number > 0 {
		delete(s.nodes, name)
	}
}

// close ends what the port listens on. Called with mu held.
func (p *port) close() {
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
}

// Port waits for the node's port, which it has moments after its Node is there. Whether anything listens on it is another
// matter.
func (s *Server) Port(ctx context.Context, name string) (int, error) {
	if number, ok := s.given(name); ok {
		return number, nil
	}
	s.mu.Lock()
	p := s.port(name)
	given := p.given
	s.mu.Unlock()
	select {
	case <-given:
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the port of node %s: %w", name, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.number, nil
}

// given returns the port of a node that has one.
func (s *Server) given(name string) (number int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.port(name)
	select {
	case <-p.given:
		return p.number, true
	default:
		return 0, false
	}
}
