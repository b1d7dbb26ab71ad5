// Package device is what cloud and edge both know of devices: how a Device and its DeviceModel become what a mapper is
// told (DMI) and back, whether the two fit together, and which values a property may have.
//
// It promises that the same objects give the same judgement on both sides, that no configuration, however hostile, makes
// it panic or recurse without end, and that a value is refused with a reason, never rounded or cut in silence where it
// matters to a twin. All functions are pure. cloud/device puts findings into conditions; edge/mapper and edge/device act on
// them.
package device
