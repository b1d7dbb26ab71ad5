package state

import (
	"slices"

	"github.com/tether-edge/tether/common/object"
)

// A graph is every object and who refers to what. It does no I/O and knows no lock: the Cache guards it. Each step
// adds to a changes what may look different now, and to whom.
//
// Visibility is counted, not searched: a nodeState counts for each entry how many of its pods (or visible claims, or
// visible volumes) refer to it. So a change costs what it changes.
type graph struct {
	kinds  map[object.ID]*kindState
	nodes  map[string]*nodeState
	causes *causes
	synced bool // every kind is listed
	// byNamespace holds, per namespace, its Services and the nodes that have pods in it.
	byNamespace map[string]*namespace
	// subscribed are the nodes with subscribers: what every node sees (CSIDrivers, RuntimeClasses) goes to them.
	subscribed map[*nodeState]struct{}
}

type namespace struct {
	services map[*entry]struct{}
	nodes    nodeSet
}

// A nodeState is what one node sees. It exists while a pod, an attachment or a subscriber names the node.
type nodeState struct {
	name string
	pods map[*entry]struct{}
	// refs counts why the node sees an entry.
	refs map[*entry]uint32
	// namespaces counts the node's pods per namespace.
	namespaces map[string]uint32
	subs       []*subscription
}

// changes are the effects of a step on the outside, carried out after the lock is given back.
type changes struct {
	dirty   []dirty
	lookups []*lookup
}

type dirty struct {
	sub *subscription
	key object.Key
}

// to marks e's key as changed for a node.
func (ch *changes) to(n *nodeState, e *entry) {
	for _, s := range n.subs {
		ch.dirty = append(ch.dirty, dirty{s, e.key()})
	}
}

func newGraph(kinds []object.Kind, maxCauses int) *graph {
	g := &graph{
		kinds: map[object.ID]*kindState{}, nodes: map[string]*nodeState{}, causes: newCauses(maxCauses),
		byNamespace: map[string]*namespace{}, subscribed: map[*nodeState]struct{}{},
	}
	for _, k := range kinds {
		g.kinds[k.ID()] = &kindState{
			id: k.ID(), kind: k, entries: map[name]*entry{}, done: make(chan struct{}), waits: map[*entry]*lookup{},
		}
	}
	return g
}

func (g *graph) allListed() bool {
	for _, k := range g.kinds {
		if !k.listed {
			return false
		}
	}
	return true
}

// node returns the state of a node, made where there is none.
func (g *graph) node(nodeName string) *nodeState {
	n := g.nodes[nodeName]
	if n == nil {
		n = &nodeState{
			name: nodeName, pods: map[*entry]struct{}{}, refs: map[*entry]uint32{}, namespaces: map[string]uint32{},
		}
		g.nodes[nodeName] = n
	}
	return n
}

func (g *graph) dropNode(n *nodeState) {
	if len(n.pods) == 0 && len(n.refs) == 0 && len(n.subs) == 0 {
		delete(g.nodes, n.name)
	}
}

// nodeUID returns the uid of the Node object of that name, or "".
func (g *graph) nodeUID(nodeName string) string {
	k := g.kinds[object.Nodes]
	if k == nil {
		return ""
	}
	e := k.entries[name{"", nodeName}]
	if e == nil {
		return ""
	}
	if b := e.content.Load(); b != nil {
		return b.version.UID
	}
	return ""
}

// put stores an object that exists. first is set while the first list of its kind is taken in.
func (g *graph) put(k *kindState, a *arrival, first bool, ch *changes) {
	e := k.entry(a.name)
	old := e.content.Load()
	if old != nil && old.version == a.content.version {
		return
	}
	if old != nil && old.version.UID != a.content.version.UID && k.id == object.Pods {
		g.rememberPod(e, e.rel != nil && e.rel.collected)
		g.bindPod(e, nil, nil, ch)
	}
	e.setContent(a.content)
	switch k.id {
	case object.Pods:
		g.putPod(e, a, first, ch)
	case object.PersistentVolumes:
		g.relateVolume(e, a, ch)
	case object.VolumeAttachments:
		g.attach(e, a.node, ch)
	case object.Devices:
		g.placeDevice(e, a.node, g.entries(a.refs), ch)
	case object.Services:
		if old == nil {
			g.namespace(e.name.namespace).services[e] = struct{}{}
		}
	}
	g.changed(e, ch)
	if old == nil {
		g.arrived(e, ch)
	}
}

// remove takes an object away. collected says that the last state of a Pod blames its missing Node.
func (g *graph) remove(k *kindState, n name, collected bool, ch *changes) {
	e := k.entries[n]
	if e == nil || !e.present() {
		return
	}
	g.changed(e, ch)
	switch k.id {
	case object.Pods:
		g.rememberPod(e, collected || (e.rel != nil && e.rel.collected))
		g.bindPod(e, nil, nil, ch)
	case object.PersistentVolumes:
		g.relateVolume(e, nil, ch)
	case object.VolumeAttachments:
		g.attach(e, "", ch)
	case object.Devices:
		g.placeDevice(e, "", nil, ch)
	case object.Services:
		delete(g.namespace(e.name.namespace).services, e)
		g.dropNamespace(e.name.namespace)
	}
	e.setContent(nil)
	e.drop()
}

// changed marks e for every node that sees it and for who follows its kind.
func (g *graph) changed(e *entry, ch *changes) {
	for _, s := range e.kind.followers {
		ch.dirty = append(ch.dirty, dirty{s, e.key()})
	}
	switch e.kind.id {
	case object.Pods:
		if e.rel != nil && e.rel.node != nil {
			ch.to(e.rel.node, e)
		}
	case object.Nodes, object.CSINodes:
		if n := g.nodes[e.name.name]; n != nil {
			ch.to(n, e)
		}
	case object.CSIDrivers, object.RuntimeClasses:
		for n := range g.subscribed {
			ch.to(n, e)
		}
	case object.Services:
		if isDefaultService(e.name) {
			for n := range g.subscribed {
				ch.to(n, e)
			}
		} else if ns := g.byNamespace[e.name.namespace]; ns != nil {
			for n := range ns.nodes.all {
				ch.to(n, e)
			}
		}
	default:
		for n := range e.seen.all {
			ch.to(n, e)
		}
	}
}

// isDefaultService is about the Service through which pods reach the API server: the kubelet puts it into the
// environment of pods of every namespace.
func isDefaultService(n name) bool { return n == name{"default", "kubernetes"} }

// sees reports whether a node may see an entry, present or not.
func (g *graph) sees(n *nodeState, e *entry) bool {
	switch e.kind.id {
	case object.Pods:
		return e.rel != nil && e.rel.node == n && e.rel.hold == nil
	case object.Nodes, object.CSINodes:
		return e.name.name == n.name
	case object.CSIDrivers, object.RuntimeClasses:
		return true
	case object.Services:
		return isDefaultService(e.name) || n.namespaces[e.name.namespace] > 0
	}
	return n.refs[e] > 0
}

// list returns the entries of a kind that a node sees.
func (g *graph) list(n *nodeState, k *kindState) []*entry {
	var out []*entry
	add := func(e *entry) {
		if e != nil && e.present() && g.sees(n, e) {
			out = append(out, e)
		}
	}
	switch k.id {
	case object.Pods:
		for e := range n.pods {
			add(e)
		}
	case object.Nodes, object.CSINodes:
		add(k.entries[name{"", n.name}])
	case object.CSIDrivers, object.RuntimeClasses:
		for _, e := range k.entries {
			add(e)
		}
	case object.Services:
		for ns := range n.namespaces {
			if s := g.byNamespace[ns]; s != nil {
				for e := range s.services {
					add(e)
				}
			}
		}
		if n.namespaces["default"] == 0 {
			add(k.entries[name{"default", "kubernetes"}])
		}
	default:
		for e := range n.refs {
			if e.kind == k {
				add(e)
			}
		}
	}
	return out
}

// refer counts one more reason for a node to see e.
func (g *graph) refer(n *nodeState, e *entry, ch *changes) {
	n.refs[e]++
	if n.refs[e] > 1 {
		return
	}
	e.seen.add(n)
	ch.to(n, e)
	if e.rel == nil {
		return
	}
	switch e.kind.id {
	case object.PersistentVolumeClaims:
		for _, v := range e.rel.volumes {
			g.refer(n, v, ch)
		}
	case object.PersistentVolumes:
		for _, s := range e.rel.refs {
			g.refer(n, s, ch)
		}
	}
}

// unrefer takes a reason back.
func (g *graph) unrefer(n *nodeState, e *entry, ch *changes) {
	n.refs[e]--
	if n.refs[e] > 0 {
		return
	}
	delete(n.refs, e)
	e.seen.remove(n)
	ch.to(n, e)
	if e.rel != nil {
		switch e.kind.id {
		case object.PersistentVolumeClaims:
			for _, v := range e.rel.volumes {
				g.unrefer(n, v, ch)
			}
		case object.PersistentVolumes:
			for _, s := range e.rel.refs {
				g.unrefer(n, s, ch)
			}
		}
	}
	e.drop()
}

// entries turns references into entries. Kinds that are not synced are left out.
func (g *graph) entries(refs []ref) []*entry {
	if len(refs) == 0 {
		return nil
	}
	out := make([]*entry, 0, len(refs))
	for _, r := range refs {
		if k := g.kinds[r.kind]; k != nil {
			out = append(out, k.entry(r.name))
		}
	}
	return out
}

// relateVolume sets what a PersistentVolume is reserved for and which Secrets it needs. A nil arrival means that the
// volume is gone.
func (g *graph) relateVolume(e *entry, a *arrival, ch *changes) {
	var claim *entry
	var secrets []*entry
	if k := g.kinds[object.PersistentVolumeClaims]; a != nil && a.claim != (name{}) && k != nil {
		claim = k.entry(a.claim)
		secrets = g.entries(a.refs)
	}
	if e.rel == nil && claim == nil {
		return
	}
	rel := e.links()
	if rel.claim == claim && slices.Equal(rel.refs, secrets) {
		return
	}
	// Those that saw the old claim lose the volume and its Secrets; those that see the new one gain them.
	oldClaim, oldSecrets := rel.claim, rel.refs
	if oldClaim != nil {
		for n := range oldClaim.seen.all {
			g.unrefer(n, e, ch)
		}
		oldClaim.rel.volumes = slices.DeleteFunc(oldClaim.rel.volumes, func(v *entry) bool { return v == e })
	}
	rel.claim, rel.refs = claim, secrets
	for _, s := range secrets {
		s.pins++
	}
	if claim != nil {
		claim.links().volumes = append(claim.links().volumes, e)
		for n := range claim.seen.all {
			g.refer(n, e, ch)
		}
	} else {
		e.rel = nil
	}
	for _, s := range oldSecrets {
		s.pins--
		s.drop()
	}
	if oldClaim != nil {
		oldClaim.drop()
	}
}

// attach sets the node of a VolumeAttachment.
func (g *graph) attach(e *entry, nodeName string, ch *changes) {
	var n *nodeState
	if nodeName != "" {
		n = g.node(nodeName)
	}
	if e.rel == nil && n == nil {
		return
	}
	old := e.links().node
	if old == n {
		return
	}
	e.rel.node = n
	if n != nil {
		g.refer(n, e, ch)
	}
	if old != nil {
		g.unrefer(old, e, ch)
		g.dropNode(old)
	}
}

// placeDevice sets the node of a Device ("": nowhere) and its model, which the node sees for as long as it has the device.
func (g *graph) placeDevice(e *entry, nodeName string, refs []*entry, ch *changes) {
	var n *nodeState
	if nodeName != "" {
		n = g.node(nodeName)
	}
	if e.rel == nil && n == nil {
		return
	}
	rel := e.links()
	old, oldRefs := rel.node, rel.refs
	rel.node, rel.refs = n, refs
	// The new ones are counted before the old ones are taken back, so that what stays is never unseen.
	if n != nil {
		g.refer(n, e, ch)
		for _, r := range refs {
			g.refer(n, r, ch)
		}
	}
	if old != nil {
		for _, r := range oldRefs {
			g.unrefer(old, r, ch)
		}
		g.unrefer(old, e, ch)
		g.dropNode(old)
	}
	if n == nil {
		e.rel = nil
	}
}

func (g *graph) namespace(nsName string) *namespace {
	ns := g.byNamespace[nsName]
	if ns == nil {
		ns = &namespace{services: map[*entry]struct{}{}}
		g.byNamespace[nsName] = ns
	}
	return ns
}

func (g *graph) dropNamespace(nsName string) {
	if ns := g.byNamespace[nsName]; ns != nil && len(ns.services) == 0 && ns.nodes.len() == 0 {
		delete(g.byNamespace, nsName)
	}
}
