package chaos

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestTheWitnessSeesWhatNoPodMayShow: another pod's container, and an end that is taken back.
func TestTheWitnessSeesWhatNoPodMayShow(t *testing.T) {
	pod := func(uid types.UID, phase corev1.PodPhase, container, former string) *corev1.Pod {
		c := corev1.ContainerStatus{ContainerID: container}
		if former != "" {
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ContainerID: former}
		}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "data-0", UID: uid}, Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{c}}}
	}
	for want, pods := range map[string][]*corev1.Pod{
		"":                    {pod("a", corev1.PodRunning, "1", ""), pod("a", corev1.PodRunning, "2", "1"), pod("b", corev1.PodRunning, "3", ""), pod("b", corev1.PodSucceeded, "3", "")},
		"which is one of":     {pod("a", corev1.PodRunning, "1", ""), pod("b", corev1.PodRunning, "1", "")},
		"container 1":         {pod("a", corev1.PodRunning, "1", ""), pod("b", corev1.PodRunning, "2", "1")},
		"as Failed and then":  {pod("a", corev1.PodFailed, "1", ""), pod("a", corev1.PodFailed, "1", ""), pod("a", corev1.PodSucceeded, "1", "")},
		"and then as Running": {pod("a", corev1.PodSucceeded, "1", ""), pod("a", corev1.PodRunning, "1", "")},
	} {
		s := newWitness(nil)
		for _, p := range pods {
			s.shown(p)
		}
		err := s.wrong()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v; expected %q", err, want)
		}
	}
	rewound := newWitness(nil)
	rewound.shown(pod("a", corev1.PodSucceeded, "1", ""))
	rewound.blindfold(true)
	rewound.shown(pod("a", corev1.PodFailed, "1", ""))
	rewound.blindfold(false)
	rewound.shown(pod("a", corev1.PodSucceeded, "1", ""))
	rewound.forgive()
	rewound.shown(pod("a", corev1.PodRunning, "1", ""))
	if err := rewound.wrong(); err != nil {
		t.Errorf("after the cluster went back: %v", err)
	}
}

// TestALogThatSkipsIsFoundOut, and one that says a line twice; wherever it begins.
func TestALogThatSkipsIsFoundOut(t *testing.T) {
	for _, c := range []struct {
		line string
		last int
		ok   bool
	}{{"7\n", -1, true}, {"8\n", 7, true}, {"9\n", 7, false}, {"7\n", 7, false}, {"cut\n", 7, false}} {
		if _, err := number(c.line, c.last); (err == nil) != c.ok {
			t.Errorf("%q after %d: %v", c.line, c.last, err)
		}
	}
}
