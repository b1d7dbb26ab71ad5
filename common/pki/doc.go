// Package pki makes and reads the certificates of the link: the edge CA, CloudCore's server certificate and the client
// certificate that is an edge node's identity.
//
// It promises that a node's name is read from a verified certificate in one place (NodeName), that both ends speak
// mutual TLS 1.3 and nothing older, that private keys are readable by their owner only, that files are replaced whole or
// not at all, that replaced files are taken up by the next connection, and that a failed handshake can be told in words
// that say what to mend (Explain). All times come from an injected clock. The hub, the edge's link, keadm and the tests
// use it.
package pki

import "time"

// Clock tells the time; time.Now in production.
type Clock func() time.Time

// The identity of a node in its certificate, as Kubernetes' Node authorizer expects it.
const (
	nodePrefix = "system:node:"
	nodeGroup  = "system:nodes"
)
