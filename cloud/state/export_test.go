package state

import "fmt"

// Leftovers describes what an empty cluster should not need, or returns "".
func Leftovers(c *Cache) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := ""
	for id, k := range c.g.kinds {
		for _, e := range k.entries {
			out += fmt.Sprintf("entry %s seen by %d, pins %d, rel %+v; ", e.key(), e.seen.len(), e.pins, e.rel)
		}
		if len(k.waits) > 0 {
			out += fmt.Sprintf("%d waits of %s; ", len(k.waits), id)
		}
	}
	for n := range c.g.nodes {
		out += "node " + n + "; "
	}
	for n := range c.g.byNamespace {
		out += "namespace " + n + "; "
	}
	return out
}
