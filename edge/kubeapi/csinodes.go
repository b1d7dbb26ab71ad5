package kubeapi

import (
	"context"
	"errors"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// csiNodes is the CSINode resource. It is the kubelet's own, so writes are local first and go up whole. (A kubelet
// that cannot create its CSINode in 6 tries after a first answer ends its process.)
type csiNodes struct{ *updater }

var (
	_ rest.Creater         = &csiNodes{}
	_ rest.GracefulDeleter = &csiNodes{}
)

func (c *csiNodes) own(name string) error {
	if name != c.s.cfg.NodeName {
		return forbidden(c.groupResource(), name, "can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func (c *csiNodes) Create(ctx context.Context, o runtime.Object, _ rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	node := o.(*storagev1.CSINode)
	if err := c.own(node.Name); err != nil {
		return nil, err
	}
	if !c.synced() {
		return nil, c.errNotSynced()
	}
	if err := c.prepareCreate(node); err != nil {
		return nil, err
	}
	if len(opts.DryRun) > 0 {
		return node, nil
	}
	rec, err := c.local(node)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	out, err := c.outgoing(rec.Key, node)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	return c.storeCreated(ctx, node, object.Change{Record: rec, Outgoing: out}, c.apply)
}

func (c *csiNodes) outgoing(key object.Key, o object.Object) ([]object.Outgoing, error) {
	body, err := c.message(o)
	if err != nil {
		return nil, err
	}
	return []object.Outgoing{{
		Key: key, Op: object.OpPut, Body: body, Class: object.ClassState, Priority: object.PriorityCSINode,
		Created: c.s.deps.Clock.Now(),
	}}, nil
}

func (c *csiNodes) changeCSINode(_ context.Context, rec *object.Record, old, next object.Object) (*object.Change, error) {
	if err := c.own(old.GetName()); err != nil {
		return nil, err
	}
	if apiequality.Semantic.DeepEqual(old, next) {
		return nil, nil
	}
	stored := next.DeepCopyObject().(object.Object)
	stored.SetResourceVersion(cloudRV(rec))
	body, err := object.Encode(c.kind, stored)
	if err != nil {
		return nil, err
	}
	out, err := c.outgoing(rec.Key, next)
	if err != nil {
		return nil, err
	}
	changed := *rec
	changed.Body = body
	return &object.Change{Expect: rec.LocalRV, Record: &changed, Outgoing: out}, nil
}

// Delete takes the CSINode away here. The kubelet does so only to create it anew for a new Node, and that goes up as a
// replacement: a deletion in between would only show the cluster a node without drivers.
func (c *csiNodes) Delete(ctx context.Context, name string, _ rest.ValidateObjectFunc, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if err := c.own(name); err != nil {
		return nil, false, err
	}
	return c.remove(ctx, name, opts, func(rec *object.Record) object.Change {
		if rec.Origin == object.FromEdge {
			return object.Change{Expect: rec.LocalRV, Record: rec, Remove: true}
		}
		next := *rec
		next.Tombstone = true
		return object.Change{Expect: rec.LocalRV, Record: &next}
	}, c.apply)
}

// remove deletes an object at once, with the change that the caller computes from its record.
func (u *updater) remove(ctx context.Context, name string, opts *metav1.DeleteOptions, change func(*object.Record) object.Change,
	apply func(context.Context, object.Change) (*object.Record, error)) (runtime.Object, bool, error) {
	for range updateTries {
		rec, err := u.lookup(ctx, name)
		if err != nil {
			return nil, false, err
		}
		o, err := u.show(rec)
		if err != nil {
			return nil, false, internal(ctx, "read the store", err)
		}
		if err := checkDelete(u.resource, o, opts); err != nil {
			return nil, false, err
		}
		if opts != nil && len(opts.DryRun) > 0 {
			return o, true, nil
		}
		if _, err = apply(ctx, change(rec)); isConflict(err) {
			continue
		} else if err != nil {
			return nil, false, internal(ctx, "write the store", err)
		}
		return nil, true, nil
	}
	return nil, false, apierrors.NewConflict(u.groupResource(), name, errors.New("the object is written too often; please try again"))
}
