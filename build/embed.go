// Package build holds the files that Tether's programs and its installer carry inside them: the Kubernetes manifests
// that cloudcore needs in a cluster, the custom resource definitions of devices among them.
//
// It promises that what is embedded is what the repository shows under build/manifests and build/crds, and that applying
// the manifests gives CloudCore exactly the rights it uses, never cluster-admin (tests/upstream runs every write with them). keadm,
// the quickstart and the tests apply them.
package build

import (
	"bytes"
	_ "embed"
	"slices"
)

// Names that the manifests use.
const (
	// Namespace holds CloudCore.
	Namespace = "tether-system"
	// ServiceAccount is the one that CloudCore acts as. A client certificate with the common name User has the same
	// rights, where CloudCore runs outside the cluster.
	ServiceAccount = "cloudcore"
	// User is the user name of ServiceAccount.
	User = "system:serviceaccount:" + Namespace + ":" + ServiceAccount
)

var (
	//go:embed manifests/rbac.yaml
	rbac []byte
	//go:embed manifests/devices.yaml
	deviceRoles []byte
	//go:embed manifests/impersonation.yaml
	constrained []byte
	//go:embed manifests/impersonation-legacy.yaml
	legacy []byte
	//go:embed crds/devices.kubeedge.io_devicemodels.yaml
	deviceModels []byte
	//go:embed crds/devices.kubeedge.io_devices.yaml
	devices []byte
	//go:embed crds/devices.kubeedge.io_devicestatuses.yaml
	deviceStatuses []byte
	//go:embed systemd/cloudcore.service
	cloudUnit []byte
	//go:embed systemd/edgecore.service
	edgeUnit []byte
)

// RBAC returns the namespace, the service account and CloudCore's own rights, as YAML documents. They do not include
// the right to act as a node: add ConstrainedImpersonation or LegacyImpersonation.
func RBAC() []byte { return slices.Clone(rbac) }

// DeviceRoles returns what users with the cluster's roles view, edit and admin may do with devices, as YAML documents.
func DeviceRoles() []byte { return slices.Clone(deviceRoles) }

// ConstrainedImpersonation returns the rights to act as a node, verb by verb, on API servers from 1.36, as YAML
// documents. Older ones accept the objects and ignore the verbs.
func ConstrainedImpersonation() []byte { return slices.Clone(constrained) }

// Unit returns the systemd unit of cloudcore or edgecore; nil for any other name.
func Unit(program string) []byte {
	return slices.Clone(map[string][]byte{"cloudcore": cloudUnit, "edgecore": edgeUnit}[program])
}

// LegacyImpersonation returns the rights to act as a node on API servers before 1.36, as YAML documents. They are
// nearly cluster-admin: the file says why.
func LegacyImpersonation() []byte { return slices.Clone(legacy) }

// CRDs returns the custom resource definitions of DeviceModel, Device and DeviceStatus, as YAML documents. They are
// generated from apis/devices.
func CRDs() []byte {
	return bytes.Join([][]byte{document(deviceModels), document(devices), document(deviceStatuses)}, []byte("---\n"))
}

// document returns a generated file without the line that opens it.
func document(file []byte) []byte { return bytes.TrimPrefix(file, []byte("---\n")) }
