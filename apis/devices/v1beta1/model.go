package v1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DeviceModel is a kind of device: which properties its devices have, and what their mapper needs to know of all of
// them. Devices of one namespace refer to it by its name.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=devicemodels,scope=Namespaced,shortName=dmodel,categories=tether
// +kubebuilder:printcolumn:name="Protocol",type=string,JSONPath=`.spec.protocol`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type DeviceModel struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec DeviceModelSpec `json:"spec,omitempty"`
}

// DeviceModelList is a list of models.
//
// +kubebuilder:object:root=true
type DeviceModelList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DeviceModel `json:"items"`
}

// DeviceModelSpec is what the devices of a model have in common.
type DeviceModelSpec struct {
	// The protocol that the devices speak, such as "modbus": that of their mapper. A device's spec.protocol.protocolName must
	// equal it.
	// +optional
	Protocol string `json:"protocol,omitempty"`
	// What the mapper needs to reach any device of this model: an object of the protocol's own. A device adds to it, and
	// replaces single keys of it, with spec.protocol.configData.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	ProtocolConfigData *runtime.RawExtension `json:"protocolConfigData,omitempty"`
	// The properties that a device of this model has, by their names.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=1000
	Properties []ModelProperty `json:"properties,omitempty"`
}

// ModelProperty is one property of the devices of a model: something that can be read, or also set.
//
// +kubebuilder:validation:XValidation:rule="!has(self.type) || !(self.type in ['INT', 'FLOAT', 'DOUBLE']) || !has(self.minimum) || !has(self.maximum) || !self.minimum.matches('^[-+]?[0-9]{1,200}([.][0-9]{0,100})?([eE][-+]?[0-9]{1,2})?$') || !self.maximum.matches('^[-+]?[0-9]{1,200}([.][0-9]{0,100})?([eE][-+]?[0-9]{1,2})?$') || double(self.minimum) <= double(self.maximum)",message="minimum must not be greater than maximum",fieldPath=".minimum"
type ModelProperty struct {
	// Its name, once in a model.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// What it is, for people.
	// +optional
	Description string `json:"description,omitempty"`
	// What its values are. Values are written as text: INT as a decimal number of 64 bits, FLOAT and DOUBLE as decimal numbers of
	// 32 and 64 bits, BOOLEAN as true or false, STRING, BYTES and STREAM as they are. STREAM is for frames and video, which the
	// mapper handles itself. Nothing is checked where it is absent.
	// +optional
	Type PropertyType `json:"type,omitempty"`
	// Whether it may be set (ReadWrite) or only read (ReadOnly).
	// +optional
	// +kubebuilder:default=ReadWrite
	AccessMode AccessMode `json:"accessMode,omitempty"`
	// The least value that may be desired, of an INT, FLOAT or DOUBLE, written as its values are.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Minimum string `json:"minimum,omitempty"`
	// The greatest value that may be desired, of an INT, FLOAT or DOUBLE, written as its values are.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Maximum string `json:"maximum,omitempty"`
	// The unit of its values, such as "degree Celsius", for people.
	// +optional
	Unit string `json:"unit,omitempty"`
	// How the mapper reaches it in any device of this model. A device adds to its configData, and replaces single keys of it.
	// +optional
	Visitors *VisitorConfig `json:"visitors,omitempty"`
}

// PropertyType is what the values of a property are.
//
// +kubebuilder:validation:Enum=INT;FLOAT;DOUBLE;STRING;BOOLEAN;BYTES;STREAM
type PropertyType string

// The types of properties.
const (
	Int     PropertyType = "INT"
	Float   PropertyType = "FLOAT"
	Double  PropertyType = "DOUBLE"
	String  PropertyType = "STRING"
	Boolean PropertyType = "BOOLEAN"
	Bytes   PropertyType = "BYTES"
	Stream  PropertyType = "STREAM"
)

// AccessMode is whether a property may be set.
//
// +kubebuilder:validation:Enum=ReadWrite;ReadOnly
type AccessMode string

// The ways to use a property.
const (
	ReadWrite AccessMode = "ReadWrite"
	ReadOnly  AccessMode = "ReadOnly"
)

// VisitorConfig is how a mapper reaches one property in a device.
type VisitorConfig struct {
	// The protocol that configData is for.
	// +optional
	ProtocolName string `json:"protocolName,omitempty"`
	// An object of the protocol's own, such as {"register": "HoldingRegister", "offset": 2, "limit": 1}.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	ConfigData *runtime.RawExtension `json:"configData,omitempty"`
}
