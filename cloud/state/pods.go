package state

import (
	"github.com/tether-edge/tether/common/object"
)

// putPod takes a new version of a Pod into the graph.
func (g *graph) putPod(e *entry, a *arrival, first bool, ch *changes) {
	if a.node == "" {
		g.bindPod(e, nil, nil, ch)
		return
	}
	n := g.node(a.node)
	fresh := e.rel == nil || e.rel.node != n
	g.bindPod(e, n, g.entries(a.refs), ch)
	e.rel.collected = a.collected
	if !fresh {
		return
	}
	g.causes.forget(n.name, e.name)
	e.rel.unchecked = !first
	if g.synced && len(n.subs) > 0 {
		g.gate(e, ch)
	}
}

// bindPod sets where a Pod is bound (nil: nowhere) and what it refers to.
func (g *graph) bindPod(e *entry, n *nodeState, refs []*entry, ch *changes) {
	if e.rel == nil && n == nil {
		return
	}
	old, oldRefs := e.links().node, e.rel.refs
	e.rel.node, e.rel.refs = n, refs
	if n != nil {
		// The new references are counted before the old ones are taken back, so that what stays is never unseen.
		for _, r := range refs {
			g.refer(n, r, ch)
		}
		if old != n {
			n.pods[e] = struct{}{}
			g.enterNamespace(n, e.name.namespace, ch)
			ch.to(n, e)
		}
	}
	if old != nil {
		for _, r := range oldRefs {
			g.unrefer(old, r, ch)
		}
		if old != n {
			e.rel.cancelHold()
			delete(old.pods, e)
			g.leaveNamespace(old, e.name.namespace, ch)
			ch.to(old, e)
			g.dropNode(old)
		}
	}
	if n == nil {
		e.rel = nil
	}
}

// enterNamespace counts a pod of a node in a namespace: the first one brings the Services.
func (g *graph) enterNamespace(n *nodeState, nsName string, ch *changes) {
	n.namespaces[nsName]++
	if n.namespaces[nsName] > 1 {
		return
	}
	ns := g.namespace(nsName)
	ns.nodes.add(n)
	for s := range ns.services {
		ch.to(n, s)
	}
}

func (g *graph) leaveNamespace(n *nodeState, nsName string, ch *changes) {
	n.namespaces[nsName]--
	if n.namespaces[nsName] > 0 {
		return
	}
	delete(n.namespaces, nsName)
	ns := g.namespace(nsName)
	ns.nodes.remove(n)
	for s := range ns.services {
		ch.to(n, s)
	}
	g.dropNamespace(nsName)
}

// rememberPod keeps the cause of a Pod's end where it is not plain deletion. While the Nodes are not listed an absent
// Node proves nothing; if it really is absent, Cause finds out when it is asked.
func (g *graph) rememberPod(e *entry, collected bool) {
	if e.rel == nil || e.rel.node == nil {
		return
	}
	nodes := g.kinds[object.Nodes]
	gone := nodes != nil && nodes.listed && g.nodeUID(e.rel.node.name) == ""
	if collected || gone {
		g.causes.remember(e.rel.node.name, e.name)
	}
}

// cause says why a node does not see what key names; 0 if it does see it, or will (a pod held back).
func (g *graph) cause(n *nodeState, key object.Key, heldNodeUID string) object.Cause {
	var e *entry
	k := g.kinds[key.Kind]
	if k != nil {
		e = k.entries[nameOf(key)]
	}
	exists := e != nil && e.present()
	if exists && (g.sees(n, e) || g.held(n, e)) {
		return 0
	}
	uid := g.nodeUID(n.name)
	otherNode := heldNodeUID != "" && heldNodeUID != uid
	switch {
	case uid == "":
		return object.CauseNodeGone
	case key.Kind == object.Pods:
		// A pod never moves: one that is not on this node any more was deleted, even if its name lives elsewhere.
		if otherNode || g.causes.has(n.name, nameOf(key)) {
			return object.CauseNodeGone
		}
		return object.CauseDeleted
	case otherNode && (key.Kind == object.CSINodes || key.Kind == object.VolumeAttachments):
		return object.CauseNodeGone
	case exists || k == nil:
		return object.CauseOutOfInterest
	}
	return object.CauseDeleted
}
