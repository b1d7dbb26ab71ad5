// Package v1beta1 holds the API types of devices.kubeedge.io/v1beta1: DeviceModel, Device and DeviceStatus.
//
// It promises that manifests which KubeEdge accepts are accepted, and that what was stored is what was sent: free-form
// objects keep whatever they hold. The custom resource definitions in build/crds and the deep copies are generated from
// these types; tests/devices applies them to a real API server. What takes two objects to judge is in common/device.
//
// +kubebuilder:object:generate=true
// +groupName=devices.kubeedge.io
package v1beta1

//go:generate go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0 object paths=. crd:crdVersions=v1 output:crd:artifacts:config=../../../build/crds
