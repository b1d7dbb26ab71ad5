package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeviceStatus is what a device reported, and whether it works. It has the name and the namespace of its Device, is made
// for it and goes with it. Nobody but CloudCore writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=devicestatuses,singular=devicestatus,scope=Namespaced,shortName=devst,categories=tether
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`,description="What the mapper said of the device"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Mapper",type=string,JSONPath=`.status.conditions[?(@.type=="MapperConnected")].status`,description="Whether the mapper of the device's protocol is connected"
// +kubebuilder:printcolumn:name="Reported",type=string,JSONPath=`.status.conditions[?(@.type=="Reported")].status`,description="Whether the device reported what is desired"
// +kubebuilder:printcolumn:name="Last Online",type=string,priority=1,JSONPath=`.status.lastOnlineTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type DeviceStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Empty: the device's own spec is in the Device.
	// +optional
	Spec   DeviceStatusSpec   `json:"spec,omitempty"`
	Status DeviceStatusStatus `json:"status,omitempty"`
}

// DeviceStatusList is a list of statuses.
//
// +kubebuilder:object:root=true
type DeviceStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DeviceStatus `json:"items"`
}

// DeviceStatusSpec is empty.
type DeviceStatusSpec struct{}

// DeviceStatusStatus is what a device reported.
type DeviceStatusStatus struct {
	// The properties that are reported, by their names.
	// +optional
	// +listType=map
	// +listMapKey=propertyName
	// +kubebuilder:validation:MaxItems=1000
	Twins []Twin `json:"twins,omitempty"`
	// What the mapper says of the device: online, offline, ok, unknown or unhealthy.
	// +optional
	State string `json:"state,omitempty"`
	// When the device was last online, as the mapper says it.
	// +optional
	LastOnlineTime string `json:"lastOnlineTime,omitempty"`
	// Whatever else is known of the device.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Extensions *runtime.RawExtension `json:"extensions,omitempty"`
	// Whether the device works, and if not, why: Ready, MapperConnected, Reported, PushSupported.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=32
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Types of conditions.
const (
	// ConditionReady is True while the device and its model fit together and its node has the device.
	ConditionReady = "Ready"
	// ConditionMapperConnected is True while the mapper of the device's protocol is connected to the edge.
	ConditionMapperConnected = "MapperConnected"
	// ConditionPushSupported is False where a property has a pushMethod that Tether's own mappers cannot do yet, and absent
	// elsewhere. A mapper of somebody else's may do it nevertheless.
	ConditionPushSupported = "PushSupported"
	// ConditionReported is True once every property reported what is desired of it.
	ConditionReported = "Reported"
)

// Twin is one property: what is desired of it and what the device reported.
type Twin struct {
	// The property's name.
	// +kubebuilder:validation:MinLength=1
	PropertyName string `json:"propertyName"`
	// The desired value that the mapper has seen last.
	// +optional
	ObservedDesired *TwinProperty `json:"observedDesired,omitempty"`
	// The value that the device had last.
	// +optional
	Reported *TwinProperty `json:"reported,omitempty"`
}
