// Package mapper makes a mapper: the program that speaks to devices in their protocol and to the edge through the Device Mapper
// Interface. Who adds a protocol writes a Driver, three methods for one device, and a function that opens it; docs/mappers.md
// walks through it.
//
// The package does the rest. It registers at the edge, again when either side restarted, and keeps the devices that the edge
// gives; it reads each property at its collectCycle, reports values that changed or are due by reportCycle, and values of one
// device together; it writes desired values, reads them back and writes again until the device has them; it reports whether a
// device is there, and opens it again with growing delays when it is not; and it pushes values by HTTP, by MQTT with package
// mqttpush, or by whatever Options.Push holds. One device that hangs or fails holds up no other.
package mapper
