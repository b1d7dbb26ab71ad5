package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Device is one device at an edge node: which model it is of, which node reaches it, how, and what its properties shall
// be. What it reports is in the DeviceStatus of the same name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=devices,scope=Namespaced,shortName=dev,categories=tether
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.spec.deviceModelRef.name`
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol.protocolName`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Device struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceSpec `json:"spec,omitempty"`
	// What devices reported before DeviceStatus existed. It is kept as it was sent, and not used but for reportToCloud and
	// reportCycle, where spec.stateReport is absent.
	// +optional
	Status *LegacyStatus `json:"status,omitempty"`
}

// DeviceList is a list of devices.
//
// +kubebuilder:object:root=true
type DeviceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Device `json:"items"`
}

// DeviceSpec is what a device is and shall be.
type DeviceSpec struct {
	// The DeviceModel of this device, in the same namespace.
	// +optional
	DeviceModelRef *ModelReference `json:"deviceModelRef,omitempty"`
	// The edge node that reaches the device. While it is empty, the device is nowhere.
	// +optional
	NodeName string `json:"nodeName,omitempty"`
	// How the mapper reaches the device.
	// +optional
	Protocol *ProtocolConfig `json:"protocol,omitempty"`
	// The properties that are used, by their names; the model says what they are.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Properties []DeviceProperty `json:"properties,omitempty"`
	// What can be called at the edge to set several properties at once, by name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=200
	Methods []DeviceMethod `json:"methods,omitempty"`
	// Whether and how often the device's state is reported.
	// +optional
	StateReport *StateReport `json:"stateReport,omitempty"`
}

// ModelReference names a DeviceModel.
//
// +structType=atomic
type ModelReference struct {
	// Its name.
	// +optional
	Name string `json:"name,omitempty"`
}

// ProtocolConfig is how a mapper reaches a device.
type ProtocolConfig struct {
	// The protocol, such as "modbus": the mapper that registered with this name looks after the device.
	// +optional
	ProtocolName string `json:"protocolName,omitempty"`
	// An object of the protocol's own, such as {"communicateType": "tcp", "ip": "192.0.2.7", "port": 502}. It adds to the model's
	// protocolConfigData and replaces single keys of it.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	ConfigData *runtime.RawExtension `json:"configData,omitempty"`
}

// DeviceProperty is one property of a device that is used.
type DeviceProperty struct {
	// Its name, once in a device, as in the model.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// What the property shall be. Absent, or with an empty value, leaves the property as the device has it.
	// +optional
	Desired *TwinProperty `json:"desired,omitempty"`
	// Milliseconds between two readings from the device. 0 or absent leaves it to the mapper.
	// +optional
	// +kubebuilder:validation:Minimum=0
	CollectCycle int64 `json:"collectCycle,omitempty"`
	// The least milliseconds between two values that the DeviceStatus shows, and between two pushes. 0 or absent sets no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ReportCycle int64 `json:"reportCycle,omitempty"`
	// Whether it is shown in the DeviceStatus; false keeps it at the edge.
	// +optional
	// +kubebuilder:default=true
	ReportToCloud *bool `json:"reportToCloud,omitempty"`
	// How the mapper reaches the property in this device; more exact than what the model says.
	// +optional
	Visitors *VisitorConfig `json:"visitors,omitempty"`
	// Where the mapper itself sends the values, besides reporting them.
	// +optional
	PushMethod *PushMethod `json:"pushMethod,omitempty"`
}

// TwinProperty is a value of a property and what is known of it.
type TwinProperty struct {
	// The value, as text: docs/devices.md has the form for each type.
	// +kubebuilder:validation:MaxLength=65536
	Value string `json:"value"`
	// What else is known, such as timestamp (milliseconds since 1970) and type.
	// +optional
	Metadata map[string]string `json:"metadata,omitempty"`
}

// DeviceMethod sets properties of a device together, on call.
type DeviceMethod struct {
	// Its name, once in a device.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// What it does, for people.
	// +optional
	Description string `json:"description,omitempty"`
	// The properties that it sets.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1000
	PropertyNames []string `json:"propertyNames,omitempty"`
}

// StateReport is whether and how often a device's state is reported.
type StateReport struct {
	// Whether the state is shown in the DeviceStatus; false keeps it at the edge.
	// +optional
	// +kubebuilder:default=true
	ReportToCloud *bool `json:"reportToCloud,omitempty"`
	// The least milliseconds between two states that the DeviceStatus shows, and between two reports of the mapper. 0 or absent sets no bound.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ReportCycle int64 `json:"reportCycle,omitempty"`
}

// LegacyTwin is one property in a LegacyStatus.
type LegacyTwin struct {
	// The property's name.
	// +optional
	PropertyName string `json:"propertyName,omitempty"`
	// The desired value that the mapper had seen last.
	// +optional
	ObservedDesired *TwinProperty `json:"observedDesired,omitempty"`
	// The value that the device had last.
	// +optional
	Reported *TwinProperty `json:"reported,omitempty"`
}

// LegacyStatus is the status that Device objects had before DeviceStatus existed.
type LegacyStatus struct {
	// What the properties had, and what was desired of them.
	// +optional
	// +listType=atomic
	Twins []LegacyTwin `json:"twins,omitempty"`
	// What the mapper said of the device.
	// +optional
	State string `json:"state,omitempty"`
	// When the device was last online.
	// +optional
	LastOnlineTime string `json:"lastOnlineTime,omitempty"`
	// Whatever else was known of the device.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Extensions *runtime.RawExtension `json:"extensions,omitempty"`
	// Whether the state is shown in the DeviceStatus, where spec.stateReport is absent.
	// +optional
	ReportToCloud *bool `json:"reportToCloud,omitempty"`
	// Milliseconds between two reports of the state, where spec.stateReport is absent.
	// +optional
	ReportCycle int64 `json:"reportCycle,omitempty"`
}
