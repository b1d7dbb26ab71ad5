package chaos

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ledger knows what ran before a slot, and of whom events were counted.
type ledger struct {
	// containers by pod uid and name: their ids.
	containers map[string]string
	// pod is the StatefulSet's, which nobody rolls out.
	pod     types.UID
	counted map[types.UID]bool
}

func newLedger() *ledger {
	return &ledger{containers: map[string]string{}, counted: map[types.UID]bool{}}
}

// account compares the world after a slot with the one before: which containers were started anew, and which pods of Jobs
// have too few or too many events of their start.
func (l *ledger) account(ctx context.Context, w *world) (found account, err error) {
	running, err := w.containers(ctx)
	if err != nil {
		return found, err
	}
	now := map[string]string{}
	for id, c := range running {
		now[c.PodUID+"/"+c.Name] = id
	}
	for key, id := range now {
		if was := l.containers[key]; was != "" && was != id {
			found.Restarted++
			found.faults = append(found.faults, fmt.Errorf("container %s was %s, is %s", key, was, id))
		}
	}
	l.containers = now
	data, err := w.Admin.CoreV1().Pods(namespace).Get(ctx, dataPod, metav1.GetOptions{})
	if err != nil {
		return found, err
	}
	if l.pod != "" && l.pod != data.UID {
		found.replaced = fmt.Errorf("pod %s had uid %s and has %s", dataPod, l.pod, data.UID)
	}
	l.pod = data.UID
	return found, l.events(ctx, w, &found)
}

// account is what a slot cost.
type account struct {
	// Restarted containers were started anew in a pod that stayed; events of starts that were Lost or Doubled.
	Restarted int `json:"restarted"`
	Lost      int `json:"lost"`
	Doubled   int `json:"doubled"`
	most      int // events of one start
	replaced  error
	faults    []error
}

// events counts the events of the pods of Jobs: each started one container, once, and one event says so.
func (l *ledger) events(ctx context.Context, w *world, found *account) error {
	pods, err := w.Admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name"})
	if err != nil {
		return err
	}
	events, err := w.Admin.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Started,involvedObject.kind=Pod"})
	if err != nil {
		return err
	}
	started := map[types.UID]int{}
	for _, e := range events.Items {
		started[e.InvolvedObject.UID] += max(1, int(e.Count))
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if l.counted[p.UID] || p.Status.Phase != corev1.PodSucceeded {
			continue
		}
		l.counted[p.UID] = true
		found.most = max(found.most, started[p.UID])
		switch n := started[p.UID]; {
		case n == 0:
			found.Lost++
			found.faults = append(found.faults, fmt.Errorf("no event says that pod %s started", p.Name))
		case n > 1:
			found.Doubled++
			found.faults = append(found.faults, fmt.Errorf("%d events say that pod %s started", n, p.Name))
		}
	}
	return nil
}

// allowed returns nil if what the slot cost is what its faults may cost.
func (a account) allowed(faults []Fault) error {
	var restarts, replaces, rewinds, twice bool
	forgets := 0
	for _, f := range faults {
		restarts, rewinds, twice = restarts || f.Restarts || f.Rewinds, rewinds || f.Rewinds, twice || f.Twice
		replaces = replaces || f.Replaces || f.Rewinds
		forgets += f.Forgets
	}
	if a.replaced != nil && !replaces {
		return fmt.Errorf("a pod was replaced, and nobody had asked for that: %w", a.replaced)
	}
	if (a.Restarted > 0 && !restarts) || (a.Lost > forgets && !rewinds) || (a.Doubled > 0 && (!twice || a.most > 2)) {
		return fmt.Errorf("%d containers were restarted, %d events lost, %d doubled: %w", a.Restarted, a.Lost, a.Doubled, errors.Join(a.faults...))
	}
	return nil
}
