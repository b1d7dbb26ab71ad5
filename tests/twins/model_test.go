package twins

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// wish is what the model knows of one property that can be set.
type wish struct {
	// cloud is what the Device says now.
	cloud string
	// may are the values that the property may have in the end: one, unless the edge desired a value at a moment at which it may or may
	// not have known of the cloud's newest.
	may map[string]bool
}

func newWish(value string) *wish { return &wish{value, map[string]bool{value: true}} }

func (w *wish) String() string { return strings.Join(slices.Sorted(maps.Keys(w.may)), " or ") }

// edit: the cloud says another value than ever before. When the edge hears of it that is a change, and holds.
func (w *wish) edit(value string) { *w = *newWish(value) }

// A said is how a desire of the edge went.
type said int

// What is known of it.
const (
	accepted said = iota
	refused
	unknown // the answer was lost
)

// desire: the edge desires a value. before and after are what it knew of the cloud's value before it was asked and after it
// answered: that of an earlier Device is stale, and none means that nobody could look.
func (w *wish) desire(value string, outcome said, before, after string) {
	switch {
	case outcome == refused:
	case outcome == accepted && before == w.cloud:
		w.may = map[string]bool{value: true}
	case outcome == accepted && after != w.cloud && after != "": // the cloud's is still to come, and takes its place
	default:
		w.may[value] = true
	}
}

// stale is what the edge knows of a Device that was replaced.
const stale = "stale"

// item is one device in the model.
type item struct {
	name   string
	thing  *thing
	client *client // nil for a device of the mapper
	uid    string
	node   string
	wishes map[string]*wish // by property
	births int              // times that it was made or came to the node
}

func (i *item) String() string { return i.name }

// settable are the properties that are desired; flow can only be read, and dose is set by calls.
var settable = []string{"mode", "set"}

// readable are the properties of an item.
func (i *item) readable() []string {
	if i.client != nil {
		return []string{"flow", "mode", "set"}
	}
	return []string{"flow", "mode", "set", dose}
}

// counter gives out values, each once.
type counter struct{ n int }

func (c *counter) next() string { c.n++; return fmt.Sprint(c.n) }
