// Package twins tests that cloud, edge and devices agree in the end, whatever happened: random edits in the cloud, desires and
// reports at the edge, cut and stalled links, restarts of every part and power cuts, over thirty devices, drawn from a seed. All parts
// are the real ones, in one process, on a real API server and a real SQLite file; only the devices are simulated.
//
//	go test ./tests/twins -seed 7           that seed again, with its steps
//	go test ./tests/twins -seeds 500        many seeds
//	go test ./tests/twins -seed 7 -log FILE with what all parts say
//	go test -race ./tests/twins             with the race detector, which takes twice as long and is not in make test
//
// A seed fixes the steps and the pauses between them, not how goroutines take turns: a failure may take several runs to come again.
//
// What holds once everything is up and quiet:
//
//   - A property's desired value is that of the rule in common/twin, and the same in the Device (unless the edge desires another),
//     at the edge, in the DeviceStatus and in the device.
//   - What the device has is what the edge, and the DeviceStatus, say that it reported.
//   - A device was written each desired value at most once. Every desired value here is used once, so that one which comes again is
//     seen. After a power cut MQTT may deliver a message again; a device tells by the versions in it that it is old.
//   - A method that was called, with one key as often as it took to hear what came of it, was done once.
//   - Nothing more is written: a CloudCore that starts with cold caches, and an edge that connects, find nothing to do.
package twins
