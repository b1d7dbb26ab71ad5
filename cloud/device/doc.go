// Package device owns every DeviceStatus of the cluster: it makes one for each Device, says in its conditions whether the
// device can work, and writes into it what the device's node reported.
//
// It promises that a report is acknowledged once the API server has it and not before (I2); that only the node which
// the Device names reports, for the Device that is there now; that the last report of a device always arrives,
// though at most so many writes are made for one device and for all together; that what changes nothing costs no
// write; that a device which floods, or a model of many devices, holds up no other (I9); and that several CloudCores
// settle on the same object, by preconditions alone. It has no list or watch of its own: it follows the shared cache (I5).
//
// cloud/upstream hands it the reports of edges; cloud/cloudcore wires and runs it.
package device
