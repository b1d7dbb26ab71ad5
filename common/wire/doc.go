// Package wire defines the frames of the link between cloudcore and edgecore: protobuf messages behind a length
// prefix, their versions, features and size limits. docs/protocol.md explains them byte by byte.
//
// It promises that no input makes it panic or hold more memory than a few times the limits below, and that what one version
// writes its neighbours read. common/session decides what the frames mean, common/transport carries them.
package wire

//go:generate protoc --go_out=. --go_opt=paths=source_relative wire.proto

// Version is the protocol version that this code speaks. Versions lists all of them, newest first.
const Version = 1

// Versions returns the protocol versions that this code speaks, newest first.
func Versions() []uint32 { return []uint32{Version} }

// Size limits, in bytes. An API server refuses objects of more than 1.5 MiB (etcd's default request limit), so a
// frame that is larger than MaxFrame is damage or an attack.
const (
	// MaxFrame bounds a frame after the handshake.
	MaxFrame = 4 << 20
	// MaxHandshakeFrame bounds Hello and Welcome: what an end reads from a peer that it does not yet know.
	MaxHandshakeFrame = 64 << 10
	// MaxBody bounds one object after decompression.
	MaxBody = 3 << 20
	// MaxInventoryEntries bounds the entries of one Inventory frame: about 400 bytes each at worst.
	MaxInventoryEntries = 4000
	// MaxFields bounds the fields of a frame's body, repeated ones counted each. An empty entry of two bytes takes a hundred
	// once it is parsed.
	MaxFields = 16_384
)
