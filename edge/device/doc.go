// Package device is the edge's engine of devices: it owns the twins of this node's devices and the order of what happens
// to each.
//
// It promises:
//   - what a client, a mapper or the cloud said of a device is on the disk, together with the DeviceStatus that the cloud is
//     to get, before the caller is told (I2), and none of it needs the cloud;
//   - of a device's status the newest waits for the cloud, once, whatever the rate of reports (common/twin says what a
//     change is);
//   - one device that fails, floods or cannot be read holds up no other (I9);
//   - listeners hear of the changes of one device in their order.
//
// edge/mapper and edge/mqtt report and listen through the composition root; edge/store feeds and keeps it. cloud/device owns
// what becomes of a status.
package device
