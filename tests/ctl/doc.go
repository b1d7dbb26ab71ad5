// Package ctl runs `keadm ctl` and stock kubectl side by side against the local API of one edge, served over a real store,
// and compares what they write and their exit codes.
//
// It promises that whatever differs is named in its table with the reason why. Ages are set aside, and who speaks: kubectl
// begins what it says itself with "error:", keadm with its name. The kubelet behind the API is a fake that repeats what it
// was asked for; tests/e2e has the same verbs with real pods. It has tests only.
package ctl
