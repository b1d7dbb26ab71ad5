package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/tests/cluster"
)

// restarted starts edgecore with another configuration, with or without a cloud.
func (s *system) restarted(change func(*v1alpha1.EdgeCore)) {
	s.t.Helper()
	s.must(s.edge.Supervisor.Stop(20 * time.Second))
	s.must(s.edge.Change(change))
	s.must(s.edge.StartCore(context.Background()))
	s.eventuallyStatus(time.Minute, "the kubelet to run again", `"running"`)
}

// locally returns the one pod of the gateway's own API for which is says so, and waits for it.
func (s *system) locally(api kubernetes.Interface, timeout time.Duration, what string, is func(*corev1.Pod) bool) (found *corev1.Pod) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, what, func() error {
		l, err := api.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var all []string
		for i := range l.Items {
			if p := &l.Items[i]; is(p) {
				found = p
				return nil
			}
			all = append(all, l.Items[i].Name+": "+describe(&l.Items[i]))
		}
		return errors.New(strings.Join(all, "; "))
	})
	return found
}

// TestAPodThatIsEndedOfflineGetsAStandIn: the kubelet evicts pods while the cable is out. The site makes another of each,
// with the Secrets, ConfigMaps and token of that one; the cluster's own replaces it once it is Ready.
func TestAPodThatIsEndedOfflineGetsAStandIn(t *testing.T) {
	s := sharedSystem(t)
	s.configMap("till", map[string]string{"message": "open"})
	s.deployment("till", 2)
	s.waitDeployment("till", 2, time.Minute)
	local, err := s.edge.LocalAPI()
	s.must(err)
	s.cut()
	evict := func(below string) {
		s.restarted(func(c *v1alpha1.EdgeCore) {
			c.Kubelet.EvictionHard = maps.Clone(c.Kubelet.EvictionHard)
			c.Kubelet.EvictionHard["memory.available"] = below
		})
	}
	usual := v1alpha1.DefaultEdgeCore().Kubelet.EvictionHard["memory.available"]
	t.Cleanup(func() { evict(usual) })
	evict("99%")
	ended := s.locally(local, 2*time.Minute, "a pod to be evicted", func(p *corev1.Pod) bool {
		// Succeeded, where its containers end well.
		return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded
	})
	evict(usual)
	standIn := s.locally(local, 3*time.Minute, "its stand-in to be Ready", func(p *corev1.Pod) bool {
		return p.Annotations["tether.io/stand-in-for"] == ended.Name && podReady(p) == nil
	})
	s.answers(standIn, "/", "open")
	s.expects(0, standIn.Name, "", "keadm", "get", "pods", "-n", namespace)
	s.expects(0, "(stand-in)", "", "keadm", "get", "pods", "-n", namespace)
	s.expects(0, "stand-in", "", "keadm", "status")
	// The name is not the cluster's, and what it does there stays here.
	if _, err := s.Admin.CoreV1().Pods(namespace).Get(t.Context(), standIn.Name, metav1.GetOptions{}); err == nil {
		t.Error("the cluster has the stand-in")
	}

	s.heal()
	s.waitDeployment("till", 2, time.Minute)
	cluster.Eventually(t, time.Minute, "the stand-in to retire", func() error {
		if _, err := local.CoreV1().Pods(namespace).Get(context.Background(), standIn.Name, metav1.GetOptions{}); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	s.containerGone(standIn.Name, time.Minute)
	running := 0
	for _, p := range s.podsOf("till") {
		if p.Status.Phase == corev1.PodRunning && podReady(&p) == nil {
			running++
		}
	}
	if running != 2 {
		t.Errorf("%d pods are Ready in the cluster, expected 2", running)
	}
	cluster.Eventually(t, time.Minute, "nothing to be kept", func() error {
		if status := s.status(); strings.Contains(status, "standIns") {
			return errors.New(status)
		}
		return nil
	})
}

// TestAFencedPodEndsOnANodeThatIsCutOff, in time and also over a restart, and runs again with the link; its neighbour runs on.
func TestAFencedPodEndsOnANodeThatIsCutOff(t *testing.T) {
	s := sharedSystem(t)
	t.Cleanup(func() { s.restarted(func(c *v1alpha1.EdgeCore) { c.Steward.FenceAfter = 0 }) })
	s.restarted(func(c *v1alpha1.EdgeCore) { c.Steward.FenceAfter = v1alpha1.Duration(time.Minute) })
	fenced := demoPod("single")
	fenced.Annotations = map[string]string{"tether.io/fence": "true"}
	fenced.Spec.TerminationGracePeriodSeconds = new(int64(1))
	fenced = s.createPod(fenced)
	s.waitPod(fenced.Name, time.Minute, podReady)
	s.runPod("neighbour")
	before := s.containers()
	maps.DeleteFunc(before, func(name, _ string) bool { return strings.Contains(name, "/single/") })
	local, err := s.edge.LocalAPI()
	s.must(err)
	s.cut()
	s.containerGone(fenced.Name, 2*time.Minute)
	s.sameContainers(before)
	s.expects(0, "Withheld", "", "keadm", "get", "pods", "-n", namespace)
	s.expects(0, "default/single", "", "keadm", "status")
	s.waitCore(s.killCore())
	s.eventuallyStatus(time.Minute, "the kubelet to run again", `"running"`)
	s.containerGone(fenced.Name, time.Second)
	if p, err := local.CoreV1().Pods(namespace).Get(t.Context(), fenced.Name, metav1.GetOptions{}); err != nil || p.Annotations["tether.io/kept"] != "withheld" {
		t.Errorf("at the gateway %v, %v", p, err)
	}
	s.heal()
	cluster.Eventually(t, time.Minute, "the pod to run again", func() error {
		for name := range s.containers() {
			if strings.Contains(name, "/single/") {
				return nil
			}
		}
		return fmt.Errorf("only these do: %v", s.containers())
	})
	p := s.waitPod(fenced.Name, time.Minute, podReady)
	if p.UID != fenced.UID {
		t.Errorf("uid %s, expected %s", p.UID, fenced.UID)
	}
	s.sameContainers(before)
}

// successorsOf waits until the pods that the site keeps of a Deployment have ended, and one of another uid is Ready.
func (s *system) successorOf(name string, former types.UID) {
	s.t.Helper()
	local, err := s.edge.LocalAPI()
	s.must(err)
	s.locally(local, time.Minute, "the successor to be Ready", func(p *corev1.Pod) bool {
		return p.Labels["app"] == name && p.UID != former && podReady(p) == nil
	})
	cluster.Eventually(s.t, time.Minute, "the held pod to retire", func() error {
		l, err := local.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + name})
		for _, p := range l.Items {
			if p.UID == former {
				err = errors.New(describe(&p))
			}
		}
		return err
	})
}
