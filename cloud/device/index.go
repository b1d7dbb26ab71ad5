package device

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// An index knows which devices a change concerns. It is safe for concurrent use.
type index struct {
	// mu guards all below.
	mu     sync.Mutex
	places map[types.NamespacedName]place
	// models and nodes hold the devices of each; faults what was last found of a node that has devices.
	models map[types.NamespacedName]map[types.NamespacedName]struct{}
	nodes  map[string]map[types.NamespacedName]struct{}
	faults map[string]nodeFault
}

// A place is what a device refers to.
type place struct {
	model types.NamespacedName
	node  string
}

func newIndex() *index {
	return &index{
		places: map[types.NamespacedName]place{}, models: map[types.NamespacedName]map[types.NamespacedName]struct{}{},
		nodes: map[string]map[types.NamespacedName]struct{}{}, faults: map[string]nodeFault{},
	}
}

// put notes where a device is now.
func (x *index) put(device types.NamespacedName, p place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	was, known := x.places[device]
	if known && was == p {
		return
	}
	if known {
		x.leave(device, was)
	}
	x.places[device] = p
	add(x.models, p.model, device)
	add(x.nodes, p.node, device)
}

// remove forgets a device.
func (x *index) remove(device types.NamespacedName) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was, known := x.places[device]; known {
		delete(x.places, device)
		x.leave(device, was)
	}
}

// leave is called with mu held.
func (x *index) leave(device types.NamespacedName, p place) {
	drop(x.models, p.model, device)
	drop(x.nodes, p.node, device)
	if x.nodes[p.node] == nil {
		delete(x.faults, p.node)
	}
}

func (x *index) ofModel(model types.NamespacedName) []types.NamespacedName {
	x.mu.Lock()
	defer x.mu.Unlock()
	return members(x.models[model])
}

// hasNode says whether any device is of the node: Nodes change every few seconds, and most have none.
func (x *index) hasNode(node string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.nodes[node] != nil
}

// judged notes what was found of a node and returns its devices if that is news.
func (x *index) judged(node string, fault nodeFault) []types.NamespacedName {
	x.mu.Lock()
	defer x.mu.Unlock()
	if was, known := x.faults[node]; x.nodes[node] == nil || known && was == fault {
		return nil
	}
	x.faults[node] = fault
	return members(x.nodes[node])
}

func add[K comparable](m map[K]map[types.NamespacedName]struct{}, k K, device types.NamespacedName) {
	if m[k] == nil {
		m[k] = map[types.NamespacedName]struct{}{}
	}
	m[k][device] = struct{}{}
}

func drop[K comparable](m map[K]map[types.NamespacedName]struct{}, k K, device types.NamespacedName) {
	if delete(m[k], device); len(m[k]) == 0 {
		delete(m, k)
	}
}

func members(set map[types.NamespacedName]struct{}) []types.NamespacedName {
	all := make([]types.NamespacedName, 0, len(set))
	for d := range set {
		all = append(all, d)
	}
	return all
}
