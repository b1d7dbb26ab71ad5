package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/registry"
)

// registry serves images at the far end of the edge's cable, under the names that it returns: each is the demo with
// something of its own.
func (s *system) registry(repositories ...string) (*registry.Registry, []string) {
	s.t.Helper()
	r, err := registry.New(s.edge.RootAddress())
	s.must(err)
	s.t.Cleanup(func() { _ = r.Close() })
	s.must(s.edge.TrustRegistry(r.Address(), r.Authority()))
	archives, err := cluster.Images(context.Background())
	s.must(err)
	var names []string
	for _, a := range archives {
		if a.Name != images.Demo {
			continue
		}
		demo, err := registry.Load(a.Path, s.t.TempDir())
		s.must(err)
		for _, repository := range repositories {
			marked, err := registry.Mark(demo, repository)
			s.must(err)
			name, err := r.Push(context.Background(), repository, "latest", marked)
			s.must(err)
			names = append(names, name)
		}
	}
	return r, names
}

// pullSecret makes a Secret for a registry.
func (s *system) pullSecret(name, address, user, password string) {
	s.t.Helper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{address: map[string]string{"username": user, "password": password}}})
	s.must(err)
	_, err = s.Admin.CoreV1().Secrets(namespace).Create(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name},
		Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: config}}, metav1.CreateOptions{})
	s.must(err)
}

// alwaysPod creates a pod that pulls its image at each start.
func (s *system) alwaysPod(name, image, secret string) {
	s.t.Helper()
	p := demoPod(name)
	p.Spec.NodeName, p.Spec.TerminationGracePeriodSeconds = s.edge.Name(), new(int64(1))
	p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, corev1.PullAlways
	if secret != "" {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: secret}}
	}
	_, err := s.Admin.CoreV1().Pods(namespace).Create(context.Background(), p, metav1.CreateOptions{})
	s.must(err)
}

// pullFails expects that a pod waits for its image.
func pullFails(p *corev1.Pod) error {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && strings.HasPrefix(strings.TrimPrefix(w.Reason, "Err"), "ImagePull") {
			return nil
		}
	}
	return errors.New(describe(p))
}

// eventAt returns the text of an Event of a reason at a pod, from the cluster or the local API, that was last raised at since or later.
func eventAt(ctx context.Context, api interface {
	List(context.Context, metav1.ListOptions) (*corev1.EventList, error)
}, pod, reason string, since time.Time) (string, error) {
	l, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, e := range l.Items {
		if e.InvolvedObject.Name == pod && e.Reason == reason && !e.LastTimestamp.Time.Before(since) {
			return e.Message, nil
		}
	}
	return "", fmt.Errorf("none of %d events at pod %s has reason %s", len(l.Items), pod, reason)
}

// TestAlwaysPulledPodsRestartOffline: the site loses its cable and its power, its containers are gone, and the registry is
// at the cable's other end. Pods come back whose image the registry gave them; the one that it refused does not.
func TestAlwaysPulledPodsRestartOffline(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	r, names := s.registry("private", "public")
	s.pullSecret("right", r.Address(), "ann", "secret")
	s.pullSecret("wrong", r.Address(), "bob", "guess")
	s.alwaysPod("public", names[1], "")
	s.waitPod("public", time.Minute, podReady)
	r.Restrict(map[string]string{"ann": "secret"})
	s.alwaysPod("allowed", names[0], "right")
	allowed := s.waitPod("allowed", time.Minute, podReady)
	s.alwaysPod("refused", names[0], "wrong")
	s.alwaysPod("nobody", names[0], "")
	for _, name := range []string{"refused", "nobody"} {
		s.waitPod(name, time.Minute, pullFails)
	}

	s.cut()
	s.must(s.edge.PowerCut())
	s.must(s.edge.Boot(ctx))
	s.must(s.edge.Cut()) // a boot brings links up
	s.removeContainers()
	restarted := time.Now().Truncate(time.Second) // Events carry seconds
	s.must(s.edge.StartCore(ctx))
	cluster.Eventually(t, 2*time.Minute, "two containers to run again without a registry", func() error {
		running := s.containers()
		if running["default/allowed/demo"] == "" || running["default/public/demo"] == "" {
			return fmt.Errorf("of them run %v; %s", running, s.status())
		}
		return nil
	})
	local, err := s.edge.LocalAPI()
	s.must(err)
	for _, name := range []string{"refused", "nobody"} {
		cluster.Eventually(t, time.Minute, "pod "+name+" to be refused offline too", func() error {
			_, err := eventAt(ctx, local.CoreV1().Events(namespace), name, "Failed", restarted)
			if s.containers()["default/"+name+"/demo"] != "" {
				t.Fatalf("pod %s runs with an image that the registry never gave it", name)
			}
			return err
		})
	}
	metrics, err := s.edge.Get(ctx, s.edge.Metrics()+"/metrics")
	s.must(err)
	if strings.Contains(metrics, "tether_image_served_locally_total 0") || !strings.Contains(metrics, `tether_image_pulls_total{answer="unreachable"}`) {
		t.Errorf("the metrics show no image that served and no registry that was not heard:\n%s", metrics)
	}

	s.heal()
	s.must(s.edge.WaitReady(ctx, 30*time.Second))
	s.answers(allowed, "/healthz", "")
	cluster.Eventually(t, time.Minute, "the cluster to hear that an image served", func() error {
		text, err := eventAt(ctx, s.Admin.CoreV1().Events(namespace), "allowed", "RegistryNotHeard", restarted)
		if err == nil && !strings.Contains(text, names[0]) {
			err = fmt.Errorf("the event says %q", text)
		}
		return err
	})
}

// removeContainers takes away every pod that the edge's runtime knows.
func (s *system) removeContainers() {
	s.t.Helper()
	ctx := context.Background()
	cri, err := s.edge.CRI(ctx)
	s.must(err)
	defer cri.Close()
	list, err := cri.Runtime.ListPodSandbox(ctx, nil)
	s.must(err)
	for _, p := range list {
		s.must(cri.Runtime.StopPodSandbox(ctx, p.Id))
		s.must(cri.Runtime.RemovePodSandbox(ctx, p.Id))
	}
}

// TestGarbageCollectionLeavesTheImagesOfPods: the disk is full by the kubelet's measure, so it removes every image that it
// may. The image of a container that has not begun, for an init container that runs, stays.
func TestGarbageCollectionLeavesTheImagesOfPods(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	r, names := s.registry("kept", "unused")
	conn, err := grpc.NewClient("unix://"+s.edge.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	s.must(err)
	defer conn.Close()
	runtime := runtimeapi.NewImageServiceClient(conn)
	for _, name := range names {
		_, err := runtime.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		s.must(err)
	}
	s.must(r.Close()) // what is removed cannot come back

	p := demoPod("keeper")
	p.Spec.InitContainers = p.Spec.Containers // it runs on
	p.Spec.Containers = []corev1.Container{{Name: "later", Image: names[0]}}
	p.Spec.PriorityClassName = "system-node-critical" // the kubelet evicts others
	s.createPod(p)
	s.waitPod("keeper", time.Minute, func(p *corev1.Pod) error {
		if len(p.Status.InitContainerStatuses) == 1 && p.Status.InitContainerStatuses[0].State.Running != nil {
			return nil
		}
		return errors.New(describe(p))
	})

	var before v1alpha1.Kubelet
	s.must(s.edge.Supervisor.Stop(time.Minute))
	s.must(s.edge.Change(func(c *v1alpha1.EdgeCore) {
		before = c.Kubelet
		c.Kubelet.EvictionHard, c.Kubelet.ImageMinimumGCAge = map[string]string{"imagefs.available": "99%"}, 0
	}))
	t.Cleanup(func() {
		s.must(s.edge.Supervisor.Stop(time.Minute))
		s.must(s.edge.Change(func(c *v1alpha1.EdgeCore) { c.Kubelet = before }))
		archives, err := cluster.Images(ctx)
		s.must(err)
		s.must(s.edge.Import(ctx, archives...))
		s.must(s.edge.StartCore(ctx))
	})
	s.must(s.edge.StartCore(ctx))
	here := func() map[string]bool {
		l, err := runtime.ListImages(ctx, &runtimeapi.ListImagesRequest{})
		s.must(err)
		all := map[string]bool{}
		for _, i := range l.Images {
			for _, tag := range i.RepoTags {
				all[tag] = true
			}
		}
		return all
	}
	cluster.Eventually(t, 2*time.Minute, "the image of nobody to be removed", func() error {
		if here()[names[1]] {
			return errors.New("it is here; " + s.status())
		}
		return nil
	})
	for _, name := range []string{names[0], images.Pause, images.Demo} {
		if !here()[name] {
			t.Errorf("image %s was removed, which a pod of this node needs", name)
		}
	}
}
