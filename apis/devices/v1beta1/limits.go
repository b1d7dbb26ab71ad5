package v1beta1

// Limits of one device. The API server refuses a list that is too long; sums of bytes are judged in common/device, since
// a schema cannot say them. An API server stores objects of up to 1.5 MiB, which leaves each property of a full device 1 KiB
// for its configuration.
const (
	// MaxProperties bounds the properties of a model, of a device, and the twins of a DeviceStatus.
	MaxProperties = 1000
	// MaxPropertyName bounds the name of a property, in bytes.
	MaxPropertyName = 253
	// MaxMethods bounds the methods of a device.
	MaxMethods = 200
	// MaxDesiredBytes bounds the desired values of a device together: the bytes of their text, in UTF-8.
	MaxDesiredBytes = 64 << 10
	// MaxReport bounds what a node says of one device at a time, as JSON: an API server takes objects of 1.5 MiB.
	MaxReport = 1 << 20
	// MaxMetadata bounds the entries of metadata of one value, MaxMetadataBytes their keys and texts together.
	MaxMetadata      = 8
	MaxMetadataBytes = 4 << 10
	// MaxReportedBytes bounds the reported values of a device together, counted in the same way.
	MaxReportedBytes = 64 << 10
)
