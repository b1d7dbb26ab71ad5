package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/tests/cluster"
)

func (s *system) deletePod(name string) {
	s.t.Helper()
	s.must(s.Admin.CoreV1().Pods(namespace).Delete(context.Background(), name, metav1.DeleteOptions{}))
}

// containerGone waits until nothing of a pod runs on the edge.
func (s *system) containerGone(pod string, timeout time.Duration) {
	s.t.Helper()
	cluster.Eventually(s.t, timeout, "the containers of "+pod+" to stop", func() error {
		for name, id := range s.containers() {
			if strings.HasPrefix(name, namespace+"/"+pod+"/") {
				return fmt.Errorf("%s runs: %s", name, id)
			}
		}
		return nil
	})
}

// TestDeletedWhileCut: a pod is deleted in the cloud while the edge is away. It keeps running until the cable is back,
// ends then, and its object in the cloud goes.
func TestDeletedWhileCut(t *testing.T) {
	s := sharedSystem(t)
	p := s.runPod("doomed")
	kept := s.runPod("kept")
	before := s.containers()
	s.cut()
	s.deletePod("doomed")
	s.answers(p, "/healthz", "")
	s.sameContainers(before)
	s.heal()
	s.waitGone("doomed", 30*time.Second)
	s.containerGone("doomed", 30*time.Second)
	s.answers(kept, "/healthz", "")
}

// TestRecreatedWhileCut: another pod takes the name while the edge is away (another uid). The old one's containers end
// and the new one's start.
func TestRecreatedWhileCut(t *testing.T) {
	s := sharedSystem(t)
	old := s.runPod("phoenix")
	before := s.containers()
	s.cut()
	s.must(s.Admin.CoreV1().Pods(namespace).Delete(context.Background(), "phoenix", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	s.waitGone("phoenix", 10*time.Second)
	s.createPod(demoPod("phoenix"))
	s.sameContainers(before)
	s.heal()
	p := s.waitPod("phoenix", time.Minute, podReady)
	if p.UID == old.UID {
		t.Fatal("the pod was not recreated")
	}
	s.answers(p, "/healthz", "")
	if after := s.containers()["default/phoenix/demo"]; after == before["default/phoenix/demo"] {
		t.Errorf("the old pod's container still runs: %s", after)
	}
}

// TestFinalizersAndJobs: the objects of Job pods stay until the Job's controller has counted them, also when they end
// while the cable is out.
func TestFinalizersAndJobs(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	_, err := s.Admin.BatchV1().Jobs(namespace).Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "count"}, Spec: batchv1.JobSpec{
		Completions: new(int32(2)), Parallelism: new(int32(2)),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{Name: "c", Image: images.Demo, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"sleep", "8"}}}}},
	}}, metav1.CreateOptions{})
	s.must(err)
	cluster.Eventually(t, time.Minute, "both pods of the Job to run", func() error {
		j, err := s.Admin.BatchV1().Jobs(namespace).Get(ctx, "count", metav1.GetOptions{})
		if err == nil && (j.Status.Ready == nil || *j.Status.Ready != 2) {
			err = fmt.Errorf("status %+v", j.Status)
		}
		return err
	})
	s.cut()
	cluster.Eventually(t, time.Minute, "both to end while the cable is out", func() error {
		for name := range s.containers() {
			if strings.HasPrefix(name, "default/count-") {
				return fmt.Errorf("%s still runs", name)
			}
		}
		return nil
	})
	s.heal()
	cluster.Eventually(t, time.Minute, "the Job to count both", func() error {
		j, err := s.Admin.BatchV1().Jobs(namespace).Get(ctx, "count", metav1.GetOptions{})
		if err == nil && j.Status.Succeeded != 2 {
			err = fmt.Errorf("status %+v", j.Status)
		}
		return err
	})

	p := demoPod("held-back")
	p.Finalizers = []string{"example.com/audit"}
	s.createPod(p)
	s.waitPod("held-back", time.Minute, podReady)
	s.deletePod("held-back")
	s.containerGone("held-back", 30*time.Second)
	p = s.waitPod("held-back", time.Second, func(p *corev1.Pod) error {
		if p.DeletionTimestamp == nil {
			return errors.New("it is not marked as deleted")
		}
		return nil
	})
	_, err = s.Admin.CoreV1().Pods(namespace).Patch(ctx, p.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	s.must(err)
	s.waitGone("held-back", 30*time.Second)
}

// TestALostNodeIsMadeAgainAndNothingStops: somebody deletes the Node. CloudCore makes it again, and nothing on the site
// stops (I8). The garbage collection of pods waits 40 s and does not come to it: see TestPodsCollectedWithTheirNodeRunOn.
func TestALostNodeIsMadeAgainAndNothingStops(t *testing.T) {
	s := sharedSystem(t)
	ctx := context.Background()
	p := s.runPod("tenant")
	before := s.containers()
	n, err := s.Admin.CoreV1().Nodes().Get(ctx, s.edge.Name(), metav1.GetOptions{})
	s.must(err)
	for _, offline := range []bool{false, true} {
		if offline {
			s.cut()
		}
		s.must(s.Admin.CoreV1().Nodes().Delete(ctx, s.edge.Name(), metav1.DeleteOptions{}))
		var again *corev1.Node
		cluster.Eventually(t, 10*time.Second, "the Node to be made again", func() (err error) {
			again, err = s.Admin.CoreV1().Nodes().Get(ctx, s.edge.Name(), metav1.GetOptions{})
			if err == nil && again.UID == n.UID {
				err = errors.New("it is still the old one")
			}
			if err == nil && again.Spec.ProviderID != n.Spec.ProviderID {
				err = fmt.Errorf("its providerID is %q, was %q", again.Spec.ProviderID, n.Spec.ProviderID)
			}
			return err
		})
		n = again
		s.sameContainers(before)
		if offline {
			s.heal()
		}
		s.must(s.edge.WaitReady(ctx, 30*time.Second))
		s.sameContainers(before)
	}
	s.answers(p, "/healthz", "")
}

// TestPodsCollectedWithTheirNodeRunOn: the Node is deleted while CloudCore is down, and the garbage collection deletes
// its pods. When CloudCore is back, with cold caches, the site's containers are the ones of before (I8, NODE_GONE).
func TestPodsCollectedWithTheirNodeRunOn(t *testing.T) {
	ctx := t.Context()
	// A system of its own: the pod stays on the edge for good.
	p, err := bringUp(ctx, cluster.ForTest(t), cluster.EdgeConfig{Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	s := &system{parts: p, t: t}
	tenant := s.runEverything()
	before := s.containers()
	// One that has a successor retires for it; the other is nobody's but the site's.
	s.configMap("till", map[string]string{"message": "open"})
	s.deployment("till", 1)
	s.waitDeployment("till", 1, time.Minute)
	till := s.podsOf("till")[0]

	s.must(s.Cloud.Kill())
	s.eventuallyStatus(time.Minute, "the edge to notice", `"connected":false`)
	s.must(s.Admin.CoreV1().Nodes().Delete(ctx, s.edge.Name(), metav1.DeleteOptions{}))
	s.waitGone(tenant.Name, 3*time.Minute)
	s.must(s.Cloud.Restart())
	s.must(s.CloudReady(ctx))
	s.eventuallyStatus(time.Minute, "the edge to be in sync again", `"synced":true`)
	s.must(s.edge.WaitReady(ctx, time.Minute))
	s.successorOf("till", till.UID)
	s.runPod("newcomer") // what comes after went through the same lists
	s.sameContainers(before)
	// Its own start needs what it refers to, too.
	s.waitCore(s.killCore())
	s.eventuallyStatus(time.Minute, "the kubelet to run again", `"running"`)
	local, err := s.edge.LocalAPI()
	s.must(err)
	held, err := local.CoreV1().Pods(namespace).Get(ctx, tenant.Name, metav1.GetOptions{})
	s.must(err)
	if held.UID != tenant.UID || held.DeletionTimestamp != nil || held.Status.Phase != corev1.PodRunning {
		t.Errorf("the edge shows the pod as uid %s, deleted %v, phase %s; expected %s, running on", held.UID, held.DeletionTimestamp, held.Status.Phase, tenant.UID)
	}
	s.sameContainers(before)
}

// TestAPoisonedWriteBlocksNothingElse: the cloud refuses one pod's status for ever, without an answer that would be
// final; others go up as if it were not there, and it goes up too once it may (I2, I9).
func TestAPoisonedWriteBlocksNothingElse(t *testing.T) {
	s := sharedSystem(t)
	allow := s.refuseStatusOf("poisoned")
	s.createPod(demoPod("poisoned"))
	for i := range 3 {
		s.runPod(fmt.Sprintf("healthy-%d", i))
	}
	p, err := s.Admin.CoreV1().Pods(namespace).Get(context.Background(), "poisoned", metav1.GetOptions{})
	s.must(err)
	if podReady(p) == nil {
		t.Fatal("the poisoned pod's status went through: the test proves nothing")
	}
	allow()
	s.waitPod("poisoned", time.Minute, podReady)
}

// refuseStatusOf makes the API server refuse every status of a pod with 403, as a policy or a missing right would. It
// waits until the refusal is in force.
func (s *system) refuseStatusOf(pod string) (allow func()) {
	s.t.Helper()
	ctx := context.Background()
	policies, bindings := s.Admin.AdmissionregistrationV1().ValidatingAdmissionPolicies(), s.Admin.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	const name = "tether-e2e-poison"
	_, err := policies.Create(ctx, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		FailurePolicy: new(admissionv1.Fail),
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/status"}}}}}},
		Validations: []admissionv1.Validation{{Expression: fmt.Sprintf("object.metadata.name != %q", pod), Reason: new(metav1.StatusReasonForbidden)}},
	}}, metav1.CreateOptions{})
	s.must(err)
	_, err = bindings.Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}, metav1.CreateOptions{})
	s.must(err)
	allow = func() {
		s.must(ignoreNotFound(bindings.Delete(ctx, name, metav1.DeleteOptions{})))
		s.must(ignoreNotFound(policies.Delete(ctx, name, metav1.DeleteOptions{})))
	}
	s.t.Cleanup(allow)
	probe := demoPod(pod)
	probe.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/never"}}
	probe, err = s.Admin.CoreV1().Pods(namespace).Create(ctx, probe, metav1.CreateOptions{})
	s.must(err)
	cluster.Eventually(s.t, 30*time.Second, "the policy to be in force", func() error {
		probe.Status.Message = fmt.Sprint(time.Now().UnixNano())
		probe.ResourceVersion = ""
		if _, err := s.Admin.CoreV1().Pods(namespace).UpdateStatus(ctx, probe, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a status was answered with %v", err)
		}
		return nil
	})
	s.must(s.Admin.CoreV1().Pods(namespace).Delete(ctx, pod, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	return allow
}
