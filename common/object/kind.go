// Package object names the Kubernetes objects that travel between cloud and edge: their kinds, keys, versions and
// encodings, and which fields of a Pod or Node belong to the edge.
//
// It promises that both ends agree: the hub and the edge build digests, references and overlays from this package
// alone. It does no I/O and keeps no state. Every part of Tether that handles objects uses it.
package object

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// A Kind is one type of object that Tether knows, in the version that it stores and sends.
type Kind struct {
	schema.GroupVersionKind
	// Resource is the plural name in URLs: "pods".
	Resource   string
	Namespaced bool
	// Rank orders kinds inside a batch: an object is sent before those of higher rank that make it visible.
	Rank int
	// Optional kinds are absent from some API servers (older ones, or without their definitions) and are then not synced.
	Optional bool
	// Custom kinds are defined by a CustomResourceDefinition: they travel as JSON.
	Custom bool
	// CloudOnly kinds are watched by CloudCore and sent to nobody.
	CloudOnly bool
}

// ID is the name of a kind on the wire and in the store: "pods", "csinodes.storage.k8s.io".
type ID string

// ID returns the kind's name on the wire and in the store.
func (k Kind) ID() ID {
	if k.Group == "" {
		return ID(k.Resource)
	}
	return ID(k.Resource + "." + k.Group)
}

// GVR returns the group, version and resource of k.
func (k Kind) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: k.Version, Resource: k.Resource}
}

func kind(group, version, name, resource string, namespaced bool, rank int) Kind {
	return Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: name},
		Resource:         resource, Namespaced: namespaced, Rank: rank,
	}
}

// Identifiers of the kinds that code refers to by name.
const (
	Nodes                  ID = "nodes"
	Namespaces             ID = "namespaces"
	Pods                   ID = "pods"
	ConfigMaps             ID = "configmaps"
	Secrets                ID = "secrets"
	Services               ID = "services"
	ServiceAccounts        ID = "serviceaccounts"
	PersistentVolumes      ID = "persistentvolumes"
	PersistentVolumeClaims ID = "persistentvolumeclaims"
	VolumeAttachments      ID = "volumeattachments.storage.k8s.io"
	CSINodes               ID = "csinodes.storage.k8s.io"
	CSIDrivers             ID = "csidrivers.storage.k8s.io"
	RuntimeClasses         ID = "runtimeclasses.node.k8s.io"
	ResourceClaims         ID = "resourceclaims.resource.k8s.io"
	Devices                ID = "devices.devices.kubeedge.io"
	DeviceModels           ID = "devicemodels.devices.kubeedge.io"
	DeviceStatuses         ID = "devicestatuses.devices.kubeedge.io"
	Events                 ID = "events"
	Leases                 ID = "leases.coordination.k8s.io"
)

func deviceKind(name, resource string, rank int) Kind {
	k := kind(v1beta1.GroupVersion.Group, v1beta1.GroupVersion.Version, name, resource, true, rank)
	k.Custom, k.Optional = true, true
	return k
}

// synced lists what the hub sends to an edge, in rank order. Pods and devices come last: they follow every object that they
// make visible.
var synced = func() []Kind {
	claims := kind("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", true, 2)
	claims.Optional = true
	return []Kind{
		kind("", "v1", "Node", "nodes", false, 0),
		kind("storage.k8s.io", "v1", "CSINode", "csinodes", false, 1),
		kind("storage.k8s.io", "v1", "CSIDriver", "csidrivers", false, 1),
		kind("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false, 1),
		kind("", "v1", "Service", "services", true, 2),
		kind("", "v1", "ServiceAccount", "serviceaccounts", true, 2),
		kind("", "v1", "ConfigMap", "configmaps", true, 2),
		kind("", "v1", "Secret", "secrets", true, 2),
		kind("", "v1", "PersistentVolume", "persistentvolumes", false, 2),
		kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true, 2),
		kind("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", false, 2),
		claims,
		deviceKind("DeviceModel", "devicemodels", 2),
		kind("", "v1", "Pod", "pods", true, 3),
		deviceKind("Device", "devices", 3),
	}
}()

// cloudOnly: an edge writes a DeviceStatus and needs none; what a Namespace says of its pods is CloudCore's to heed.
var cloudOnly = func() []Kind {
	status, namespace := deviceKind("DeviceStatus", "devicestatuses", 4), kind("", "v1", "Namespace", "namespaces", false, 4)
	status.CloudOnly, namespace.CloudOnly = true, true
	return []Kind{status, namespace}
}()

// localOnly lists what the edge serves and keeps but the hub never sends.
var localOnly = []Kind{
	kind("", "v1", "Event", "events", true, 4),
	kind("coordination.k8s.io", "v1", "Lease", "leases", true, 4),
}

var byID = func() map[ID]Kind {
	m := map[ID]Kind{}
	for _, k := range slices.Concat(synced, cloudOnly, localOnly) {
		m[k.ID()] = k
	}
	return m
}()

// Synced returns the kinds that the hub sends, in the order in which a batch carries them.
func Synced() []Kind { return slices.Clone(synced) }

// Watched returns the kinds that CloudCore watches: those of Synced, and some that it sends to nobody.
func Watched() []Kind { return slices.Concat(synced, cloudOnly) }

// Lookup returns the kind of that name. ok is false for a kind that this version does not know.
func Lookup(id ID) (k Kind, ok bool) {
	k, ok = byID[id]
	return k, ok
}

// A Key names one object. Namespace is empty for cluster-scoped kinds.
type Key struct {
	Kind      ID
	Namespace string
	Name      string
}

func (k Key) String() string {
	if k.Namespace == "" {
		return string(k.Kind) + "/" + k.Name
	}
	return string(k.Kind) + "/" + k.Namespace + "/" + k.Name
}

// Limits on the parts of a key, from the Kubernetes API conventions: names are DNS subdomains of at most 253 bytes,
// namespaces are DNS labels of at most 63.
const (
	MaxName      = 253
	MaxNamespace = 63
	MaxUID       = 128
)

// Validate reports a key that no API server would have produced. It does not check that the kind is known: a newer
// peer may know more.
func (k Key) Validate() error {
	switch {
	case k.Kind == "" || len(k.Kind) > MaxName:
		return fmt.Errorf("object key %.80q: kind has %d bytes, expected 1 to %d", k, len(k.Kind), MaxName)
	case k.Name == "" || len(k.Name) > MaxName:
		return fmt.Errorf("object key %.80q: name has %d bytes, expected 1 to %d", k, len(k.Name), MaxName)
	case len(k.Namespace) > MaxNamespace:
		return fmt.Errorf("object key %.80q: namespace has %d bytes, expected at most %d", k, len(k.Namespace), MaxNamespace)
	case strings.ContainsAny(k.Name, "/\x00") || strings.ContainsAny(k.Namespace, "/\x00"):
		return fmt.Errorf("object key %.80q: a name holds a slash or a NUL", k)
	}
	return nil
}

// Compare orders keys by kind, namespace and name.
func (k Key) Compare(o Key) int {
	return cmp.Or(strings.Compare(string(k.Kind), string(o.Kind)), strings.Compare(k.Namespace, o.Namespace),
		strings.Compare(k.Name, o.Name))
}
