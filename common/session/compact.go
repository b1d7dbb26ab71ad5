package session

import (
	"encoding/hex"
	"slices"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// featureCompact is the feature of items that say their kind and uid in fewer bytes: wire.Item. Every end offers it.
const featureCompact = "compact-items"

// FeatureTunnel is the feature of streams beside the sync, which the hub opens: see wire.OpenTunnel and the protocol's
// document. An end offers it if it has somebody to serve or use them.
const FeatureTunnel = "tunnel"

// offered is what an end offers: what it was told to, and what this package does by itself.
func offered(features []string) []string { return append(slices.Clone(features), featureCompact) }

// compactKinds gives each kind of a Hello its number.
func compactKinds(kinds []*wire.KindDigest) map[object.ID]uint32 {
	m := map[object.ID]uint32{}
	for i, k := range kinds {
		m[object.ID(k.Kind)] = uint32(i) + 1
	}
	return m
}

// compacted makes an item compact, if the edge knows that.
func (h *Hub) compacted(item *wire.Item) *wire.Item {
	if h.compact == nil {
		return item
	}
	if i := h.compact[object.ID(item.Kind)]; i > 0 {
		item.KindIndex, item.Kind = i, ""
	}
	if b := uuidBytes(item.Uid); b != nil {
		item.Uuid, item.Uid = b, ""
	}
	return item
}

// expand turns compact items into plain ones; kinds are those of the edge's Hello, in its order.
func expand(items []*wire.Item, kinds []object.ID) error {
	for _, item := range items {
		if i := item.KindIndex; i > 0 {
			if uint64(i) > uint64(len(kinds)) {
				return protocolError("an item is of kind number %d, this edge named %d kinds", i, len(kinds))
			}
			item.Kind, item.KindIndex = string(kinds[i-1]), 0
		}
		if b := item.Uuid; len(b) > 0 {
			if len(b) != uuidSize {
				return protocolError("an item has a uuid of %d bytes, expected %d", len(b), uuidSize)
			}
			item.Uid, item.Uuid = uuidText(b), nil
		}
	}
	return nil
}

const uuidSize = 16

// dashes are the places of the dashes in a UUID's text (RFC 9562, section 4).
var dashes = [...]int{8, 13, 18, 23}

// uuidBytes returns the 16 bytes of a UUID, nil if uuidText would not give back the same text.
func uuidBytes(s string) []byte {
	if len(s) != 2*uuidSize+len(dashes) {
		return nil
	}
	digits := make([]byte, 0, 2*uuidSize)
	for i := range len(s) {
		if slices.Contains(dashes[:], i) {
			continue
		}
		digits = append(digits, s[i])
	}
	b := make([]byte, uuidSize)
	if _, err := hex.Decode(b, digits); err != nil || uuidText(b) != s {
		return nil
	}
	return b
}

func uuidText(b []byte) string {
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}
