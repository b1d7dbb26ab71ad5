package kubelet

import (
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods that run and that an API server gave: not those that ended, not static ones, not those of others.
func TestRunningPodsAreThoseThatAnAPIServerGave(t *testing.T) {
	pod := func(uid, source string, state runtimeapi.PodSandboxState) *runtimeapi.PodSandbox {
		return &runtimeapi.PodSandbox{State: state, Labels: map[string]string{"io.kubernetes.pod.uid": uid}, Annotations: map[string]string{"kubernetes.io/config.source": source}}
	}
	const ready, ended = runtimeapi.PodSandboxState_SANDBOX_READY, runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	endpoint := "unix://" + filepath.Join(t.TempDir(), "cri.sock")
	if _, err := RunningPods(t.Context(), endpoint); err == nil {
		t.Error("no runtime runs nothing")
	}
	fake := &fakeRuntime{pods: []*runtimeapi.PodSandbox{pod("a", "api", ready), pod("b", "api", ended), pod("c", "file", ready), pod("", "api", ready), pod("d", "api", ready)}}
	fake.serve(t, endpoint)
	if got, err := RunningPods(t.Context(), endpoint); err != nil || !slices.Equal(got, []types.UID{"a", "d"}) {
		t.Errorf("found %v, %v, expected a and d", got, err)
	}
}

// The start is told of once the runtime has said what runs, and before the kubelet can ask its API for pods.
func TestTheStartIsToldWithWhatRuns(t *testing.T) {
	tr := newTrial(t, t.TempDir(), nil)
	pod := &runtimeapi.PodSandbox{State: runtimeapi.PodSandboxState_SANDBOX_READY, Labels: map[string]string{"io.kubernetes.pod.uid": "a"}, Annotations: map[string]string{"kubernetes.io/config.source": "api"}}
	(&fakeRuntime{pods: []*runtimeapi.PodSandbox{pod}}).serve(t, tr.cfg.RuntimeEndpoint)
	told := make(chan []types.UID, 1)
	tr.starting = func(running []types.UID) {
		tr.expectNoLaunch()
		told <- running
	}
	tr.begin()
	tr.expectLaunch()
	select {
	case running := <-told:
		if !slices.Equal(running, []types.UID{"a"}) {
			t.Errorf("told of %v, expected a", running)
		}
	default:
		t.Error("the kubelet was started, and nobody was told what runs")
	}
}
