package kubelet

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

const (
	// nodeWithin bounds the wait for the Node: without it the kubelet is as late as it would be without us.
	nodeWithin = time.Second
	// nodeLook is how often it is looked for. It is there within milliseconds, since the local API is in our own memory.
	nodeLook = 5 * time.Millisecond
)

// nodeFirst is the kubelet's client. The kubelet watches its pods once it knows its Node. It looks whether it does right after it
// has asked for the Node, which is always too early, and then again after a second: after a power cut each pod would come up a second
// later. So what it makes its watch of pods with is given to it only once its Node can be there. Whether it is, the kubelet finds out
// by itself all the same. It is used as a pointer: upstream looks by reflection whether its client is nil.
type nodeFirst struct {
	kubernetes.Interface
	wait func()
}

func newNodeFirst(ctx context.Context, client kubernetes.Interface, node string) *nodeFirst {
	return &nodeFirst{client, sync.OnceFunc(func() { waitForNode(ctx, client, node) })}
}

// CoreV1 returns the client whose RESTClient waits; the kubelet wants that of pods alone, and before it looks.
func (c *nodeFirst) CoreV1() corev1client.CoreV1Interface {
	return coreNodeFirst{c.Interface.CoreV1(), c.wait}
}

type coreNodeFirst struct {
	corev1client.CoreV1Interface
	wait func()
}

// RESTClient returns the client of the core group, the first time once the Node can be there.
func (c coreNodeFirst) RESTClient() rest.Interface {
	c.wait()
	return c.CoreV1Interface.RESTClient()
}

// waitForNode asks for the Node as the kubelet did just before, and returns when the answer has been taken in here, and one look later:
// then the kubelet has taken in its own.
func waitForNode(ctx context.Context, client kubernetes.Interface, node string) {
	ctx, cancel := context.WithTimeout(ctx, nodeWithin)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.Set{metav1.ObjectNameField: node}.String()
	}))
	informer := factory.Core().V1().Nodes().Informer()
	factory.Start(ctx.Done())
	tick := time.NewTicker(nodeLook)
	defer tick.Stop()
	for known := false; !known; {
		known = informer.HasSynced()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
