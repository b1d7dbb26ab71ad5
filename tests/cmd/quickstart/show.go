package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/tests/cluster"
)

const (
	demoNamespace = "default"
	demoName      = "demo" // of the Deployment, the ConfigMap and the container
	replicas      = 2      // in demo.yaml
	firstWords    = "first words"
	secondWords   = "words of a cloud that could not be heard"

	// settle bounds each wait for something that takes a second or two on an idle machine.
	settle = 2 * time.Minute
)

// replica is one pod of the demonstration's Deployment.
type replica struct {
	pod       string
	ip        string
	container string // id in the runtime
	restarts  int32
	ready     bool
}

// list asks the cluster for the replicas, by name.
func (s *system) list(ctx context.Context) ([]replica, error) {
	pods, err := s.stack.Admin.CoreV1().Pods(demoNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + demoName})
	if err != nil {
		return nil, fmt.Errorf("list the pods: %w", err)
	}
	var found []replica
	for _, pod := range pods.Items {
		r := replica{pod: pod.Name, ip: pod.Status.PodIP}
		for _, status := range pod.Status.ContainerStatuses {
			_, r.container, _ = strings.Cut(status.ContainerID, "://")
			r.restarts += status.RestartCount
		}
		for _, condition := range pod.Status.Conditions {
			r.ready = r.ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		}
		found = append(found, r)
	}
	slices.SortFunc(found, func(a, b replica) int { return strings.Compare(a.pod, b.pod) })
	return found, nil
}

// waitReady waits until n replicas are Ready in the cluster's eyes.
func (s *system) waitReady(ctx context.Context, n int) ([]replica, error) {
	var found []replica
	_, err := wait(ctx, settle, fmt.Sprintf("%d Ready pods", n), func(ctx context.Context) error {
		var err error
		if found, err = s.list(ctx); err != nil {
			return err
		}
		ready := len(found) - len(slices.DeleteFunc(slices.Clone(found), func(r replica) bool { return r.ready }))
		if len(found) != n || ready != n {
			return fmt.Errorf("%d pods, %d of them Ready (see: kubectl describe pods)", len(found), ready)
		}
		return nil
	})
	return found, err
}

// answer asks one replica from inside the edge's network, which needs no cable.
func (s *system) answer(ctx context.Context, r replica) (message string, err error) {
	body, err := s.host.Get(ctx, "http://"+r.ip+":8080/")
	if err != nil {
		return "", err
	}
	var said struct{ Message string }
	if err := json.Unmarshal([]byte(body), &said); err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", r.pod, err)
	}
	return said.Message, nil
}

// showAnswers asks each replica and prints what it says.
func (s *system) showAnswers(ctx context.Context) error {
	for _, r := range s.demo {
		message, err := s.answer(ctx, r)
		if err != nil {
			return err
		}
		s.out.say("edge: GET http://%s:8080/ -> %s says %q", r.ip, r.pod, message)
	}
	return nil
}

func (s *system) runDemo(ctx context.Context) (string, error) {
	if err := s.kubectlCloud(ctx, "apply", "-f", s.place.short(s.place.manifest())); err != nil {
		return "", err
	}
	var err error
	if s.demo, err = s.waitReady(ctx, replicas); err != nil {
		return "", err
	}
	if err := s.kubectlCloud(ctx, "get", "pods", "-o", "wide"); err != nil {
		return "", err
	}
	return "the pods run on the edge and answer there", s.showAnswers(ctx)
}

func (s *system) cutCable(ctx context.Context) (string, error) {
	if err := s.host.Cut(); err != nil {
		return "", err
	}
	return "cloud and edge cannot reach each other; the pods still answer", s.showAnswers(ctx)
}

// killCore kills edgecore and waits until all of it is back: its own API, and the kubelet in it.
func (s *system) killCore(ctx context.Context) (string, error) {
	var err error
	if s.corePID, err = s.edge.CorePID(); err != nil {
		return "", err
	}
	killed := time.Now()
	if err := syscall.Kill(s.corePID, syscall.SIGKILL); err != nil {
		return "", fmt.Errorf("kill edgecore, process %d: %w", s.corePID, err)
	}
	var pid int
	if _, err := wait(ctx, settle, "edgecore to be back", func(ctx context.Context) error {
		if pid, err = s.edge.CorePID(); err == nil && pid == s.corePID {
			err = errors.New("its supervisor has not noticed yet")
		}
		if err == nil {
			_, err = s.edge.Status(ctx)
		}
		return err
	}); err != nil {
		return "", fmt.Errorf("%w; the end of its log:\n%s", err, s.edge.Supervisor.LogTail(15))
	}
	s.out.say("edgecore, process %d, is killed; process %d serves the node's own API after %s", s.corePID, pid, round(time.Since(killed)))
	if _, err := wait(ctx, settle, "the kubelet to run again", s.kubeletRuns); err != nil {
		return "", err
	}
	s.out.say("the kubelet runs again after %s", round(time.Since(killed)))
	if err := s.kubectlEdge(ctx, "get", "pods", "-o", "wide"); err != nil {
		return "", err
	}
	same, err := s.showContainers(ctx)
	if err != nil {
		return "", err
	}
	if err := s.showAnswers(ctx); err != nil {
		return "", err
	}
	return "edgecore is back, without the cloud, and " + same, s.showNoLink(ctx)
}

// showNoLink waits until edgecore has tried to reach the cloud and failed, which takes it three seconds, and says so.
func (s *system) showNoLink(ctx context.Context) error {
	_, err := wait(ctx, settle, "edgecore to find no cloud", func(ctx context.Context) error {
		status, err := s.edge.Status(ctx)
		if err != nil {
			return err
		}
		words := linkWords(status, time.Now())
		if status.Link.Connected || !strings.Contains(status.Link.Problem, "dial") {
			return fmt.Errorf("its link is %s", words)
		}
		s.out.say("its link is %s", words)
		return nil
	})
	return err
}

func (s *system) kubeletRuns(ctx context.Context) error {
	status, err := s.edge.Status(ctx)
	if err == nil && status.Kubelet.State != "running" {
		err = fmt.Errorf("the kubelet is %s %s", status.Kubelet.State, status.Kubelet.Reason)
	}
	return err
}

// showContainers compares what the edge's runtime runs with the replicas from before the cut: one line for each.
func (s *system) showContainers(ctx context.Context) (string, error) {
	all, err := listContainers(ctx, s.host)
	if err != nil {
		return "", err
	}
	var faults []error
	for _, r := range s.demo {
		now := slices.Collect(func(yield func(cluster.Container) bool) {
			for _, c := range all {
				if c.Pod == r.pod && c.Name == demoName && !yield(c) {
					return
				}
			}
		})
		if len(now) != 1 || now[0].ID != r.container || !now[0].Running || now[0].Attempt != 0 {
			faults = append(faults, fmt.Errorf("expected pod %s to have the one container %.12s, running, found %+v", r.pod, r.container, now))
			continue
		}
		s.out.say("container %.12s of %s: same id, restart count %d", now[0].ID, r.pod, now[0].Attempt)
	}
	return "no container was restarted", errors.Join(faults...)
}

// changeBoth changes things in the cloud that the edge is to hear of later, and lets a device report what the cloud is to.
func (s *system) changeBoth(ctx context.Context) (string, error) {
	patch := fmt.Sprintf(`{"data":{"message":%q}}`, secondWords)
	for _, args := range [][]string{
		{"patch", "configmap", demoName, "-p", patch},
		{"scale", "deployment", demoName, fmt.Sprintf("--replicas=%d", replicas+1)},
		{"get", "pods"},
	} {
		if err := s.kubectlCloud(ctx, args...); err != nil {
			return "", err
		}
	}
	status, err := s.edge.Status(ctx)
	if err != nil {
		return "", err
	}
	if status.Link.Connected {
		return "", errors.New("expected the edge to be cut off, found its link connected: did another process put the cable back")
	}
	words, err := s.edgeWords(ctx)
	if err != nil {
		return "", err
	}
	if words != firstWords {
		return "", fmt.Errorf("expected the edge's ConfigMap to say %q still, found %q", firstWords, words)
	}
	if err := s.desire(ctx, cutSetpoint); err != nil {
		return "", err
	}
	if err := s.publishPower(ctx, cutPower); err != nil {
		return "", err
	}
	if err := s.keadmEdge(ctx, "get", "devices"); err != nil {
		return "", err
	}
	found, err := s.device(ctx, meter)
	if err != nil {
		return "", err
	}
	if r := reported(found, power); r != firstPower {
		return "", fmt.Errorf("expected the cluster to show %s of %s as %s still, found %s", power, meter, firstPower, r)
	}
	return fmt.Sprintf("neither knows of the other's: the edge's ConfigMap says %q, the cluster says %s=%s of %s", firstWords, power, firstPower, meter), nil
}

// edgeWords is what the ConfigMap says in the node's own API.
func (s *system) edgeWords(ctx context.Context) (string, error) {
	local, err := s.edge.LocalAPI()
	if err != nil {
		return "", err
	}
	found, err := local.CoreV1().ConfigMaps(demoNamespace).Get(ctx, demoName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the node's own API: %w", err)
	}
	return found.Data["message"], nil
}

func (s *system) healCable(ctx context.Context) (string, error) {
	if err := s.host.Heal(ctx); err != nil {
		return "", err
	}
	healed := time.Now()
	said := func(what string) { s.out.say("%5s after the cable: %s", round(time.Since(healed)), what) }
	if _, err := wait(ctx, settle, "the link to be back", func(ctx context.Context) error {
		status, err := s.edge.Status(ctx)
		if err == nil && !status.Link.Synced {
			err = fmt.Errorf("connected %t: %s", status.Link.Connected, status.Link.Problem)
		}
		return err
	}); err != nil {
		return "", err
	}
	said("the link is up and has caught up")
	if _, err := wait(ctx, settle, "the new ConfigMap on the edge", func(ctx context.Context) error {
		words, err := s.edgeWords(ctx)
		if err == nil && words != secondWords {
			err = fmt.Errorf("%q", words)
		}
		return err
	}); err != nil {
		return "", err
	}
	said("the ConfigMap in the node's own API says the new words")
	if _, err := s.waitReported(ctx, meter, power, cutPower); err != nil {
		return "", err
	}
	said(fmt.Sprintf("the cluster knows what %s reported meanwhile: %s=%s", meter, power, cutPower))
	if _, err := s.waitReported(ctx, pump, setpoint, cutSetpoint); err != nil {
		return "", err
	}
	said(fmt.Sprintf("%s has what was desired of it meanwhile, and the cluster knows: %s=%s", pump, setpoint, cutSetpoint))
	if _, err := s.waitReady(ctx, replicas+1); err != nil {
		return "", err
	}
	said("the new pod is Ready in the cloud's eyes")
	if err := s.waitMounted(ctx); err != nil {
		return "", err
	}
	said("the old pods read the new words from their mounted file")
	if err := s.kubectlCloud(ctx, "get", "pods", "-o", "wide"); err != nil {
		return "", err
	}
	return "all changes are applied", s.showAnswers(ctx)
}

// waitMounted waits until the old pods see the new file. The kubelet writes such files when it next syncs a pod, which
// it does every minute or when the pod changes; an annotation is a change.
func (s *system) waitMounted(ctx context.Context) error {
	if err := s.kubectlCloud(ctx, "annotate", "pods", "-l", "app="+demoName, "look=now"); err != nil {
		return err
	}
	_, err := wait(ctx, settle, "the new words in the mounted files", func(ctx context.Context) error {
		for _, r := range s.demo {
			words, err := s.answer(ctx, r)
			if err == nil && words != secondWords {
				err = fmt.Errorf("%s says %q", r.pod, words)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// compare is the end of the demonstration: runtime and cluster agree that nothing was restarted.
func (s *system) compare(ctx context.Context) (string, error) {
	now, err := s.list(ctx)
	if err != nil {
		return "", err
	}
	for _, before := range s.demo {
		i := slices.IndexFunc(now, func(r replica) bool { return r.pod == before.pod })
		if i < 0 || now[i].container != before.container || now[i].restarts != 0 {
			return "", fmt.Errorf("expected the cluster to know pod %s with the container %.12s and no restart, found %+v", before.pod, before.container, now)
		}
	}
	same, err := s.showContainers(ctx)
	return same + "; the cluster says the same", err
}
