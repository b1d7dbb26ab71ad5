package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of all kinds here. GroupVersionKind and GroupVersionResource of one: GroupVersion.WithKind and
// GroupVersion.WithResource with the names below.
var GroupVersion = schema.GroupVersion{Group: "devices.kubeedge.io", Version: "v1beta1"}

// Kinds and resources.
const (
	DeviceModelKind  = "DeviceModel"
	DeviceKind       = "Device"
	DeviceStatusKind = "DeviceStatus"

	DeviceModelResource  = "devicemodels"
	DeviceResource       = "devices"
	DeviceStatusResource = "devicestatuses"
)

// AddToScheme adds the kinds to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &DeviceModel{}, &DeviceModelList{}, &Device{}, &DeviceList{}, &DeviceStatus{}, &DeviceStatusList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
