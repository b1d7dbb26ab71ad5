package devices

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	keys "github.com/tether-edge/tether/common/object"
)

// kinds are those that a sharedCache holds.
var kinds = map[keys.ID]struct {
	resource schema.GroupVersionResource
	empty    func() keys.Object
}{
	keys.Nodes:          {corev1.SchemeGroupVersion.WithResource("nodes"), func() keys.Object { return &corev1.Node{} }},
	keys.Devices:        {v1beta1.GroupVersion.WithResource(v1beta1.DeviceResource), func() keys.Object { return &v1beta1.Device{} }},
	keys.DeviceModels:   {v1beta1.GroupVersion.WithResource(v1beta1.DeviceModelResource), func() keys.Object { return &v1beta1.DeviceModel{} }},
	keys.DeviceStatuses: {v1beta1.GroupVersion.WithResource(v1beta1.DeviceStatusResource), func() keys.Object { return &v1beta1.DeviceStatus{} }},
}

// A sharedCache stands for that of a CloudCore: real lists and watches, with its rights.
type sharedCache struct {
	t         *testing.T
	informers map[keys.ID]cache.SharedIndexInformer
}

func newSharedCache(t *testing.T, config *rest.Config) *sharedCache {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &sharedCache{t, map[keys.ID]cache.SharedIndexInformer{}}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	for id, k := range kinds {
		c.informers[id] = factory.ForResource(k.resource).Informer()
	}
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() { close(stop); factory.Shutdown() })
	return c
}

func (c *sharedCache) Object(key keys.Key) (keys.Object, bool) {
	name := key.Name
	if key.Namespace != "" {
		name = key.Namespace + "/" + key.Name
	}
	found, ok, err := c.informers[key.Kind].GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil, false
	}
	o := kinds[key.Kind].empty()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.(*unstructured.Unstructured).Object, o); err != nil {
		c.t.Error(err)
		return nil, false
	}
	return o, true
}

func (c *sharedCache) WaitSynced(ctx context.Context) error {
	for _, i := range c.informers {
		if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
			return ctx.Err()
		}
	}
	return nil
}

func (c *sharedCache) Follow(ids []keys.ID, notify func([]keys.Key)) (cancel func()) {
	var mu sync.Mutex // one call at a time
	var cancels []func() error
	for _, id := range ids {
		tell := func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			u := o.(*unstructured.Unstructured)
			mu.Lock()
			defer mu.Unlock()
			notify([]keys.Key{{Kind: id, Namespace: u.GetNamespace(), Name: u.GetName()}})
		}
		informer := c.informers[id]
		h, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell})
		if err != nil {
			c.t.Error(err)
			continue
		}
		cancels = append(cancels, func() error { return informer.RemoveEventHandler(h) })
	}
	return func() {
		for _, f := range cancels {
			if err := f(); err != nil {
				c.t.Error(err)
			}
		}
	}
}
