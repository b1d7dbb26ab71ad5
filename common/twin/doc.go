// Package twin is the state machine of a device's twin: what is desired of each property, what the device reported, and
// what follows from a change of either. It is pure: no clock, no storage, no network.
//
// The rule for desired values. The cloud's is what its Device says. A client at the edge (MQTT, a method) may desire
// another one, which holds until the cloud's value changes to something else than it was; then the cloud's holds, and what
// the edge desired is lost and said as a Conflict. A Device that is sent again unchanged is no change: so a desire that was
// set at the edge while the cloud was away survives its return, unless somebody changed the value there meanwhile. A method
// call desires as any client does, and also what was desired before: the device may have been turned since.
//
// The rule for reported values. Whoever reports last, in the order of arrival at the edge, is right. Values carry the stamp
// of a hybrid logical clock, which never goes back, whatever the wall clock does.
//
// edge/device owns the twins and does what follows: it stores, tells and sends.
package twin
