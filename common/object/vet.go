package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits on JSON from an edge. A status of fifty containers has some thousand values.
const (
	maxValues   = 10_000
	maxQuantity = 64 // bytes
	maxExponent = 99
)

// quantityKeys name the fields of Nodes and of statuses that hold quantities.
var quantityKeys = []string{"capacity", "allocatable", "allocatedResources", "requests", "limits", "resources"}

// Vet reads JSON that an edge sent for an object, before it is decoded as one, and returns an error where decoding could
// cost without bound: an empty list entry of three bytes becomes an object of some hundred, and Kubernetes computes a
// quantity with an exponent of a billion digit by digit.
func Vet(body []byte) error { return VetValues(body, maxValues) }

// VetValues is Vet with another bound on the number of values.
func VetValues(body []byte, most int) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	v := vetter{most: most}
	for {
		t, err := d.Token()
		switch {
		case errors.Is(err, io.EOF) && len(v.open) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
		if err := v.token(t); err != nil {
			return err
		}
	}
}

// vetter follows the tokens of one text.
type vetter struct {
	open         []container
	values, most int
}

// container is an object or a list that is not closed yet.
type container struct {
	object bool
	// key is the last key read of an object; keyed says that its value comes next.
	key   string
	keyed bool
	// quantities: the values of this object are quantities.
	quantities bool
}

func (v *vetter) token(t json.Token) error {
	var in *container
	if n := len(v.open); n > 0 {
		in = &v.open[n-1]
	}
	if t == json.Delim('}') || t == json.Delim(']') {
		v.open = v.open[:len(v.open)-1]
		return nil
	}
	if in != nil && in.object && !in.keyed {
		in.key, in.keyed = t.(string), true
		return nil
	}
	if v.values++; v.values > v.most {
		return fmt.Errorf("it has more than %d values", v.most)
	}
	next := container{}
	if in != nil {
		in.keyed = false
		next.quantities = in.object && isQuantityKey(in.key)
	}
	switch t := t.(type) {
	case json.Delim:
		next.object = t == '{'
		next.quantities = next.quantities && next.object // an overlay has lists of the same names, of names
		v.open = append(v.open, next)
	case string:
		return in.checkQuantity(t)
	case json.Number:
		return in.checkQuantity(t.String())
	}
	return nil
}

// isQuantityKey compares as encoding/json does.
func isQuantityKey(key string) bool {
	return slices.ContainsFunc(quantityKeys, func(k string) bool { return strings.EqualFold(k, key) })
}

// checkQuantity takes every value outside of quantities.
func (c *container) checkQuantity(s string) error {
	if c == nil || !c.quantities {
		return nil
	}
	const digits = 2 // of maxExponent
	if e := strings.IndexAny(s, "eE"); len(s) > maxQuantity || e >= 0 && len(strings.TrimLeft(s[e+1:], "+-")) > digits {
		return fmt.Errorf("quantity %.80q of %s: expected at most %d bytes and an exponent of at most %d", s, c.key, maxQuantity, maxExponent)
	}
	return nil
}
