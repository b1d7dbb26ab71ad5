package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/session"
	"github.com/tether-edge/tether/common/wire"
)

// AnnotationAddresses on a Node are the addresses that its kubelet reported and the port of its own server, as JSON: the
// Node's status shows this endpoint in their place.
const AnnotationAddresses = "tether.io/addresses"

// reported is what a kubelet reported.
type reported struct {
	Addresses []corev1.NodeAddress `json:"addresses"`
	Port      int32                `json:"port"`
}

// presentTimeout is how long a Node's status waits for the node's port.
const presentTimeout = 5 * time.Second

// Await waits for the node's port, for some seconds, for Present, and reports whether there is one.
func (s *Server) Await(ctx context.Context, node string) bool {
	ctx, cancel := context.WithTimeout(ctx, presentTimeout)
	defer cancel()
	_, err := s.Port(ctx, node)
	return err == nil
}

// Present puts the endpoint into a Node's overlay, in place of what the kubelet reported, and that into an annotation. It
// is for cloud/upstream, and does not wait.
func (s *Server) Present(node string, o *object.Overlay) error {
	if o.Node == nil || len(o.Node.Addresses) == 0 {
		return nil
	}
	number, ok := s.given(node)
	if !ok {
		return fmt.Errorf("node %s has no port yet", node)
	}
	was, err := json.Marshal(reported{o.Node.Addresses, o.Node.DaemonEndpoints.KubeletEndpoint.Port})
	if err != nil {
		return fmt.Errorf("encode the addresses of node %s: %w", node, err)
	}
	o.Node.Addresses = endpoint(s.cfg.Address)
	o.Node.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if o.Annotations == nil {
		o.Annotations = map[string]*string{}
	}
	o.Annotations[AnnotationAddresses] = new(string(was))
	return nil
}

// endpoint are the addresses of every type that a client may prefer: kube-apiserver asks for Hostname first by default,
// kubeadm sets InternalIP, metrics-server takes either order.
func endpoint(address string) []corev1.NodeAddress {
	kinds := []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName}
	if net.ParseIP(address) == nil {
		kinds = []corev1.NodeAddressType{corev1.NodeInternalDNS, corev1.NodeHostName}
	}
	var all []corev1.NodeAddress
	for _, k := range kinds {
		all = append(all, corev1.NodeAddress{Type: k, Address: address})
	}
	return all
}

// Opener opens a compressed body. *wire.Compressor is one.
type Opener interface {
	Open(body []byte, how wire.Compression) ([]byte, error)
}

// View is a node's view of the cluster in which its Node has the addresses that its kubelet reported.
type View struct {
	session.View
	Codec Opener
	Log   *slog.Logger
}

// Get returns an object as the node is to see it.
func (v View) Get(k object.Key) (object.Item, bool) {
	item, ok := v.View.Get(k)
	if !ok || k.Kind != object.Nodes {
		return item, ok
	}
	own, err := v.restore(item)
	if err != nil {
		// It is then a Node with an address that is not its own, which the kubelet puts right in its own copy.
		v.Log.Warn("cannot show a node its own addresses", "node", k.Name, "error", err)
		return item, true
	}
	return own, true
}

// restore undoes Present.
func (v View) restore(item object.Item) (object.Item, error) {
	body := item.Body
	if item.Compressed {
		var err error
		if body, err = v.Codec.Open(body, wire.Compression_COMPRESSION_ZSTD); err != nil {
			return item, err
		}
	}
	kind, _ := object.Lookup(object.Nodes)
	o, err := object.Decode(kind, body)
	if err != nil {
		return item, err
	}
	n, ok := o.(*corev1.Node)
	if !ok || n.Annotations[AnnotationAddresses] == "" || len(n.Status.Addresses) == 0 {
		return item, nil
	}
	var was reported
	if err := json.Unmarshal([]byte(n.Annotations[AnnotationAddresses]), &was); err != nil {
		return item, fmt.Errorf("read annotation %s: %w", AnnotationAddresses, err)
	}
	n.Status.Addresses, n.Status.DaemonEndpoints.KubeletEndpoint.Port = was.Addresses, was.Port
	delete(n.Annotations, AnnotationAddresses)
	if body, err = object.Encode(kind, n); err != nil {
		return item, err
	}
	return object.Item{Version: item.Version, Body: body}, nil
}
