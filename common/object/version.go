package object

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
)

// A Version says which state of an object somebody holds: the uid of its incarnation and the API server's
// resourceVersion. A zero RV means that nothing is held.
type Version struct {
	UID string
	RV  uint64
}

// ParseRV reads a resourceVersion. Kubernetes documents it as an integer that grows with each write of a resource
// since 1.35 (KEP-5504); every API server that Tether supports has behaved so since 1.0.
func ParseRV(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("resourceVersion %q: expected a positive integer", s)
	}
	return v, nil
}

// FormatRV is the inverse of ParseRV.
func FormatRV(v uint64) string { return strconv.FormatUint(v, 10) }

// A Digest sums up which versions of which objects of one kind somebody holds. It does not depend on order, and is
// kept up to date by adding and removing single entries. The zero Digest is that of no objects.
type Digest struct {
	Count uint64
	Sum   [2]uint64
}

func (d *Digest) mix(k Key, v Version) (a, b uint64) {
	h := sha256.New()
	var n [4]byte
	for _, s := range []string{string(k.Kind), k.Namespace, k.Name, v.UID} {
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	var rv [8]byte
	binary.BigEndian.PutUint64(rv[:], v.RV)
	h.Write(rv[:])
	s := h.Sum(nil)
	return binary.BigEndian.Uint64(s), binary.BigEndian.Uint64(s[8:])
}

// Add counts an entry in.
func (d *Digest) Add(k Key, v Version) {
	a, b := d.mix(k, v)
	d.Count++
	d.Sum[0] += a
	d.Sum[1] += b
}

// Remove takes out an entry that was added.
func (d *Digest) Remove(k Key, v Version) {
	a, b := d.mix(k, v)
	d.Count--
	d.Sum[0] -= a
	d.Sum[1] -= b
}
