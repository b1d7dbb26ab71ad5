package kubelet

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	kubeletdeps "k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/cm"
)

// launchStock runs upstream's kubelet. It returns when ctx ends or when the kubelet fails in a way that spares the process.
func (k *Kubelet) launchStock(ctx context.Context, host Host, driver string, o *observer) error {
	server, err := stockOptions(k.cfg, host, driver)
	if err != nil {
		return err
	}
	if err := ensureCgroupRoot(k.cfg.CgroupRoot, driver); err != nil {
		return err
	}
	// Also makes the self-signed serving certificate if there is none.
	deps, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("make the kubelet's dependencies: %w", err)
	}
	if err := k.addClients(ctx, deps, server.NodeStatusUpdateFrequency.Duration, float32(server.EventRecordQPS), int(server.EventBurst), o); err != nil {
		return err
	}
	auth, reloadCA, err := app.BuildAuth(types.NodeName(k.cfg.NodeName), deps.KubeClient, server.KubeletConfiguration)
	if err != nil {
		return fmt.Errorf("make the kubelet's authentication: %w", err)
	}
	reloadCA(ctx.Done())
	deps.Auth = insideAuth{auth, k.inside}
	stop := context.AfterFunc(ctx, func() { _ = k.inside.Close() })
	defer stop()
	return app.Run(ctx, server, deps, utilfeature.DefaultFeatureGate)
}

// addClients sets the three clients as the stock kubelet would, with one difference: the local API is in our own memory,
// so only events are rate-limited.
func (k *Kubelet) addClients(ctx context.Context, deps *kubeletdeps.Dependencies, heartbeatTimeout time.Duration, eventQPS float32, eventBurst int, o *observer) error {
	base := rest.CopyConfig(k.restConfig)
	base.ContentType = runtime.ContentTypeProtobuf
	base.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	base.QPS = -1
	base.Wrap(o.wrap)
	client, err := kubernetes.NewForConfig(base)
	if err != nil {
		return fmt.Errorf("make the kubelet's client: %w", err)
	}
	deps.KubeClient = newNodeFirst(ctx, client, k.cfg.NodeName)
	heartbeat := rest.CopyConfig(base)
	heartbeat.Timeout = heartbeatTimeout
	if deps.HeartbeatClient, err = kubernetes.NewForConfig(heartbeat); err != nil {
		return fmt.Errorf("make the kubelet's heartbeat client: %w", err)
	}
	events := rest.CopyConfig(base)
	events.QPS, events.Burst = eventQPS, eventBurst
	if deps.EventClient, err = corev1client.NewForConfig(events); err != nil {
		return fmt.Errorf("make the kubelet's event client: %w", err)
	}
	return nil
}

// ensureCgroupRoot makes the cgroup under which all pods live: the kubelet wants it there.
func ensureCgroupRoot(root, driver string) error {
	if root == "" || root == "/" {
		return nil
	}
	subsystems, err := cm.GetCgroupSubsystems()
	if err != nil {
		return fmt.Errorf("find the cgroup mounts: %w", err)
	}
	name := cm.ParseCgroupfsToCgroupName(root)
	manager := cm.NewCgroupManager(klog.Background(), subsystems, driver)
	if manager.Exists(name) {
		return nil
	}
	if err := manager.Create(klog.Background(), &cm.CgroupConfig{Name: name, ResourceParameters: &cm.ResourceConfig{}}); err != nil {
		return fmt.Errorf("make the cgroup root %s: %w", root, err)
	}
	return nil
}
