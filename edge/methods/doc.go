// Package methods serves the devices of this node over HTTP: it shows their twins, and calls their methods. A call sets
// properties of a device together and answers once the device has them.
//
// It promises:
//   - a call is a desire of the edge as any other (common/twin has the rule for two desires), stored before the mapper hears of
//     it, and succeeds when the device's mapper has reported each value after it was told of it;
//   - what is called twice with one Idempotency-Key is one call, whose outcome both get, also across a restart or a power cut:
//     the key is stored in the same transaction as what the call desires, and the outcome in that of the report that made it;
//   - calls of one device happen one after the other, in the order in which they came; a device or a mapper that hangs holds up
//     no other, and callers who go away leave nothing undone;
//   - whatever clients send, its size, number and time are bounded.
//
// The composition root edge/edgecore joins it to the engine of devices, which keeps what is desired, to the mappers, whose
// reports it hears before they are stored, and to the users of MQTT, whose rights hold here too.
package methods
