package kubeapi

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// An endpoint is one resource or subresource in URLs: its storage, which says by its type which verbs it has.
type endpoint struct {
	kind    object.Kind // of the resource, also for a subresource
	sub     string      // "" for the resource itself
	storage rest.Storage
	serve   map[string]verbHandler // by verb
	verbs   []string               // for discovery, sorted
}

// guarded kinds are those whose absence makes the kubelet end things (I8).
var guarded = map[object.ID]bool{object.Pods: true, object.Nodes: true, object.CSINodes: true}

// resourceOf returns the reading side of a kind.
func (s *Server) resourceOf(kind object.Kind) *resource {
	id := kind.ID()
	r := &resource{s: s, kind: kind, src: s.deps.Store, synced: func() bool { return s.deps.Store.Synced(id) }, guarded: guarded[id]}
	always := func() bool { return true }
	switch id {
	case object.CSINodes:
		// The kubelet counts its tries from the first answer, and each needs the Node: where that is not registered yet
		// and the cable is out, an answer would end the process.
		r.synced = func() bool { return s.deps.Store.Synced(id) && s.nodeKnown() }
	case object.Events:
		r.src, r.synced = s.events, always
	case object.Leases:
		r.src, r.synced = s.leases.rows, always
	case object.DeviceStatuses:
		r.synced = func() bool { return s.deps.Store.Synced(object.Devices) }
	}
	r.table = tableOf(r)
	return r
}

// nodeKnown reports that the store holds this node's own Node.
func (s *Server) nodeKnown() bool {
	_, ok, err := s.deps.Store.Get(context.Background(), object.Key{Kind: object.Nodes, Name: s.cfg.NodeName})
	return ok && err == nil
}

// install makes the endpoints of all kinds.
func (s *Server) install() error {
	s.routes = map[string]*endpoint{}
	kinds, more := object.Synced(), []object.ID{object.Events, object.Leases}
	if s.deps.Devices != nil {
		more = append(more, object.DeviceStatuses)
	}
	for _, id := range more {
		k, ok := object.Lookup(id)
		if !ok {
			return fmt.Errorf("kind %s is unknown to common/object", id)
		}
		kinds = append(kinds, k)
	}
	for _, k := range kinds {
		r := s.resourceOf(k)
		switch k.ID() {
		case object.Pods:
			s.podReader = r
		case object.Nodes:
			s.nodeReader = r
		}
		if err := s.add(k, "", s.storageOf(r)); err != nil {
			return err
		}
		for sub, storage := range s.subresourcesOf(r) {
			if err := s.add(k, sub, storage); err != nil {
				return err
			}
		}
	}
	var err error
	if s.descriptions, err = s.openAPIPaths(); err != nil {
		return err
	}
	s.handler = s.newHandler(nil, nil)
	s.local = s.newHandler(s.forPeople, s.peoplesResources())
	return nil
}

// readOnly has the verbs of resource and no others.
type readOnly struct{ *resource }

// storageOf adds the writing side that the kubelet needs of a kind.
func (s *Server) storageOf(r *resource) rest.Storage {
	stored := func(change changeFunc) *updater {
		return &updater{resource: r, change: change, apply: s.deps.Store.Apply}
	}
	switch r.kind.ID() {
	case object.Nodes:
		n := &nodes{stored(s.changeNode(r))}
		n.ask = s.cordon
		return n
	case object.Pods:
		return &pods{r}
	case object.CSINodes:
		c := &csiNodes{stored(nil)}
		c.change = c.changeCSINode
		return c
	case object.Events:
		e := &events{&updater{resource: r, apply: s.keepEvent}}
		e.change = e.changeEvent
		return e
	case object.DeviceStatuses:
		return &deviceStatuses{r}
	case object.Leases:
		l := &leaseREST{&updater{resource: r, apply: s.leases.apply}}
		l.change = l.changeLease
		return l
	}
	return readOnly{r}
}

func (s *Server) subresourcesOf(r *resource) map[string]rest.Storage {
	stored := func(change changeFunc) rest.Storage {
		return statusREST{&updater{resource: r, change: change, apply: s.deps.Store.Apply}}
	}
	switch r.kind.ID() {
	case object.Nodes:
		return map[string]rest.Storage{"status": stored(s.changeNodeStatus(r))}
	case object.Pods:
		return map[string]rest.Storage{"status": stored(s.changePodStatus(r))}
	case object.ServiceAccounts:
		return map[string]rest.Storage{"token": &tokens{accounts: r, s: s}}
	}
	return nil
}
