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
	rel := e.links()
	old, oldRefs := rel.node, rel.refs
	rel.node, rel.refs = n, refs
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
// Node proves nothing; if it really is absent, cause finds out when it is asked.
func (g *graph) rememberPod(e *entry, collected bool) {
	if e.rel == nil || e.rel.node == nil {
		return
	}
	nodes := g.kinds[object.Nodes]
	gone := nodes != nil && nodes.listed && g.nodeUID(e.rel.node.name) == ""
	if collected || gone {
		g.causes.remember(e.content.Load().version.UID)
	}
}

// cause says why a node does not see the object of that key and uid; 0 if it does see it, or will (a pod held back).
func (g *graph) cause(n *nodeState, key object.Key, uid, heldNodeUID string) object.Cause {
	k := g.kinds[key.Kind]
	exists := false
	if k != nil {
		if e := k.entries[nameOf(key)]; e != nil && e.present() {
			exists = uid == "" || uid == e.content.Load().version.UID
			if exists && (g.sees(n, e) || g.held(n, e)) {
				return 0
			}
		}
	}
	nodeUID := g.nodeUID(n.name)
	otherNode := heldNodeUID != "" && heldNodeUID != nodeUID
	switch {
	case nodeUID == "":
		return object.CauseNodeGone
	case key.Kind == object.Pods:
		// A pod never moves: one that is not on this node any more was deleted, even if its name lives elsewhere.
		if otherNode || g.causes.has(uid) {
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
