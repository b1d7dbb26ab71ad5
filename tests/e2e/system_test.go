// Package e2e runs the whole of Tether on real parts: a stock control plane, CloudCore, containerd and an edgecore in
// a network of its own, joined by a cable that can be cut. Each test breaks one promise's way out.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/stack"
)

const namespace = "default"

// parts are the processes of a system; they may outlive a test.
type parts struct {
	*stack.Stack
	edge *stack.Edge
}

// system is one Tether system with one edge, in the hands of one test.
type system struct {
	*parts
	t *testing.T
}

// bringUp starts everything on an empty cluster and waits for the node to be Ready.
func bringUp(ctx context.Context, c *cluster.Cluster, edge cluster.EdgeConfig) (*parts, error) {
	p, err := bringUpCloud(ctx, c, edge, nil)
	if err != nil {
		return nil, err
	}
	if err := p.edge.StartCore(ctx); err != nil {
		return nil, err
	}
	return p, p.edge.WaitReady(ctx, 2*time.Minute)
}

// bringUpCloud starts everything but edgecore. connect, if not nil, is called with the host before it joins.
func bringUpCloud(ctx context.Context, c *cluster.Cluster, edge cluster.EdgeConfig, connect func(*cluster.EdgeHost) error) (*parts, error) {
	program, err := cluster.Program(ctx, "controlplane")
	if err != nil {
		return nil, err
	}
	// One that verifies kubelets; the one of TestJoinRevokeAndReset does not.
	control, err := c.StartControlPlane(ctx, program, "--component-arg=kube-apiserver=--kubelet-certificate-authority="+c.AuthorityFile())
	if err != nil {
		return nil, err
	}
	p := &parts{}
	if p.Stack, err = stack.New(ctx, c, control); err != nil {
		return nil, err
	}
	if err := p.StartCloud(ctx); err != nil {
		return nil, err
	}
	if edge.Images, err = cluster.Images(ctx); err != nil {
		return nil, err
	}
	host, err := c.NewEdgeHost(ctx, edge)
	if err != nil {
		return nil, err
	}
	if connect != nil {
		if err := connect(host); err != nil {
			return nil, err
		}
	}
	if p.edge, err = p.NewEdge(ctx, host, nil); err != nil {
		return p, err
	}
	return p, p.edge.SetProtocol(protocol)
}

// newcomer sets CloudCore up on a control plane, and a host beside it that has not joined; keadm is the program for that.
func newcomer(t *testing.T, c *cluster.Cluster, control *cluster.ControlPlane) (s *system, h *cluster.EdgeHost, keadm string) {
	t.Helper()
	ctx := t.Context()
	p := &parts{}
	s = &system{parts: p, t: t}
	var err error
	p.Stack, err = stack.New(ctx, c, control)
	s.must(err)
	s.must(p.StartCloud(ctx))
	archives, err := cluster.Images(ctx)
	s.must(err)
	h, err = c.NewEdgeHost(ctx, cluster.EdgeConfig{Name: "edge-1", Images: archives})
	s.must(err)
	keadm, err = cluster.Program(ctx, "keadm")
	s.must(err)
	p.edge = p.Joined(h)
	return s, h, keadm
}

func (s *system) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// whole mends what an earlier test may have left: cable, processes, objects.
func (s *system) whole() {
	s.t.Helper()
	ctx := context.Background()
	s.must(s.edge.Heal(ctx))
	if !s.Cloud.Alive() {
		s.must(s.Cloud.Restart())
	}
	if !s.edge.Containerd().Alive() {
		s.must(s.edge.StartContainerd(ctx))
	}
	if !s.edge.Supervisor.Alive() {
		s.must(s.edge.StartCore(ctx))
	}
	s.must(s.CloudReady(ctx))
	s.must(s.edge.WaitReady(ctx, 2*time.Minute))
	s.clear()
}

// clear deletes what tests create.
func (s *system) clear() {
	s.t.Helper()
	ctx := context.Background()
	all, now := metav1.ListOptions{}, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	s.must(s.Admin.AppsV1().Deployments(namespace).DeleteCollection(ctx, now, all))
	s.must(s.Admin.BatchV1().Jobs(namespace).DeleteCollection(ctx, now, all))
	s.must(s.Admin.CoreV1().Pods(namespace).DeleteCollection(ctx, now, all))
	s.must(s.Admin.CoreV1().Secrets(namespace).DeleteCollection(ctx, now, all))
	s.must(s.Admin.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, now, metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"}))
	cluster.Eventually(s.t, time.Minute, "the pods of earlier tests to be gone", func() error {
		l, err := s.Admin.CoreV1().Pods(namespace).List(ctx, all)
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("%d are left, the first is %s: %s", len(l.Items), l.Items[0].Name, describe(&l.Items[0]))
		}
		return err
	})
}

func (s *system) showLogs() {
	for _, p := range s.Cluster.Processes() {
		s.t.Logf("the end of the log of %s:\n%s", p.Name(), p.LogTail(40))
	}
}

// demoPod is a pod of one container that serves HTTP.
func demoPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "demo", Image: images.Demo}}}}
}

// createPod creates a pod on the edge; the spec's gaps are filled with what every test wants.
func (s *system) createPod(p *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	p.Spec.NodeName = s.edge.Name()
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].ImagePullPolicy = corev1.PullIfNotPresent
	}
	p, err := s.Admin.CoreV1().Pods(namespace).Create(context.Background(), p, metav1.CreateOptions{})
	s.must(err)
	return p
}

// runPod creates a demo pod and waits until it is Ready.
func (s *system) runPod(name string) *corev1.Pod {
	s.t.Helper()
	s.createPod(demoPod(name))
	return s.waitPod(name, time.Minute, podReady)
}

// waitPod waits until ok returns nil for the pod as the cluster shows it.
func (s *system) waitPod(name string, timeout time.Duration, ok func(*corev1.Pod) error) (p *corev1.Pod) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, "pod "+name, func() error {
		var err error
		if p, err = s.Admin.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		return ok(p)
	})
	return p
}

// waitGone waits until the cluster has no such pod.
func (s *system) waitGone(name string, timeout time.Duration) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, "pod "+name+" to be gone from the cluster", func() error {
		p, err := s.Admin.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{})
		if err == nil {
			return errors.New(describe(p))
		}
		return ignoreNotFound(err)
	})
}

func podReady(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New(describe(p))
}

// describe says in one line how a pod is.
func describe(p *corev1.Pod) string {
	text := fmt.Sprintf("phase %s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := c.State.Waiting; w != nil {
			text += fmt.Sprintf(", %s waits: %s %s", c.Name, w.Reason, w.Message)
		}
		if e := c.State.Terminated; e != nil {
			text += fmt.Sprintf(", %s ended: %d %s", c.Name, e.ExitCode, e.Reason)
		}
	}
	return text
}

// answers waits until the pod's server answers on a path, asked from inside the edge. The address is the one that the
// cluster shows at the time: after a power cut it is another one, and takes a moment to get there.
func (s *system) answers(p *corev1.Pod, path, want string) {
	s.t.Helper()
	cluster.Eventually(s.t, 20*time.Second, "pod "+p.Name+" to answer "+path, func() error {
		ip := p.Status.PodIP
		if now, err := s.Admin.CoreV1().Pods(namespace).Get(context.Background(), p.Name, metav1.GetOptions{}); err == nil && now.UID == p.UID {
			ip = now.Status.PodIP
		}
		body, err := s.edge.Get(context.Background(), "http://"+ip+":8080"+path)
		if err == nil && !strings.Contains(body, want) {
			err = fmt.Errorf("expected %q in its answer, found %q", want, body)
		}
		return err
	})
}

// containers are the running containers of the edge by pod and name: their ids and how often each was started anew.
func (s *system) containers() map[string]string {
	s.t.Helper()
	cri, err := s.edge.CRI(context.Background())
	s.must(err)
	defer cri.Close()
	list, err := cri.Containers(context.Background())
	s.must(err)
	out := map[string]string{}
	for _, c := range list {
		if c.Running {
			out[c.Namespace+"/"+c.Pod+"/"+c.Name] = fmt.Sprintf("%s attempt %d", c.ID, c.Attempt)
		}
	}
	return out
}

// sameContainers fails the test unless every container of before still runs, with the same id.
func (s *system) sameContainers(before map[string]string) {
	s.t.Helper()
	after := s.containers()
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if after[name] != before[name] {
			s.t.Errorf("I7: container %s was %q, is %q", name, before[name], after[name])
		}
	}
}

// killCore kills edgecore itself; its supervisor starts it again.
func (s *system) killCore() (pid int) {
	s.t.Helper()
	pid, err := s.edge.CorePID()
	s.must(err)
	s.must(syscall.Kill(pid, syscall.SIGKILL))
	return pid
}

// waitCore waits until a new edgecore serves its local API.
func (s *system) waitCore(old int) {
	s.t.Helper()
	cluster.Eventually(s.t, 30*time.Second, "edgecore to be back by itself", func() error {
		pid, err := s.edge.CorePID()
		if err == nil && pid == old {
			err = fmt.Errorf("its process is still %d", old)
		}
		if err == nil {
			_, err = s.edge.Get(context.Background(), s.edge.Metrics()+"/healthz")
		}
		return err
	})
}

// status is edgecore's own account of itself.
func (s *system) status() string {
	body, err := s.edge.Get(context.Background(), s.edge.Metrics()+"/status")
	if err != nil {
		return err.Error()
	}
	return body
}

func (s *system) eventuallyStatus(timeout time.Duration, what, want string) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, what, func() error {
		if body := s.status(); !strings.Contains(body, want) {
			return fmt.Errorf("expected %q in %s", want, body)
		}
		return nil
	})
}

// cut pulls the cable and waits until the edge has noticed.
func (s *system) cut() {
	s.t.Helper()
	s.must(s.edge.Cut())
	s.eventuallyStatus(time.Minute, "the edge to notice the cut", `"connected":false`)
}

func (s *system) heal() {
	s.t.Helper()
	s.must(s.edge.Heal(context.Background()))
	s.eventuallyStatus(time.Minute, "the link to be back", `"synced":true`)
}
