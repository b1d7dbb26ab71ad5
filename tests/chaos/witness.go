package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// witness watches all that the cluster ever shows of the pods: no pod may show a container that another one had, as the
// former holder of its name, and what has ended stays so.
type witness struct {
	w *world

	mu sync.Mutex
	// owner is the pod that a container was first shown of, by the container's id.
	owner map[string]types.UID
	// ended is how pods have ended, Succeeded or Failed.
	ended map[types.UID]corev1.PodPhase
	// blind: two machines speak for the node, and say what is true of their own containers.
	blind  bool
	faults []error
}

func newWitness(w *world) *witness {
	return &witness{w: w, owner: map[string]types.UID{}, ended: map[types.UID]corev1.PodPhase{}}
}

// watch looks until ctx ends.
func (s *witness) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w, err := s.w.Admin.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
		if err != nil {
			select { // the API server is one of the things that fail
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
			continue
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && (e.Type == watch.Added || e.Type == watch.Modified) {
				s.shown(p)
			}
		}
		w.Stop()
	}
}

func (s *witness) shown(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blind {
		return
	}
	for _, c := range p.Status.ContainerStatuses {
		ids := []string{c.ContainerID}
		if t := c.LastTerminationState.Terminated; t != nil {
			ids = append(ids, t.ContainerID)
		}
		for _, id := range ids {
			if id == "" {
				continue
			}
			if was, known := s.owner[id]; known && was != p.UID {
				s.faults = append(s.faults, fmt.Errorf("pod %s of uid %s was shown with container %s, which is one of uid %s", p.Name, p.UID, id, was))
			}
			s.owner[id] = p.UID
		}
	}
	phase := p.Status.Phase
	if was := s.ended[p.UID]; was != "" && phase != was {
		s.faults = append(s.faults, fmt.Errorf("pod %s of uid %s was shown as %s and then as %s", p.Name, p.UID, was, phase))
	}
	if delete(s.ended, p.UID); ended(p) {
		s.ended[p.UID] = phase
	}
}

// blindfold keeps it from looking, or lets it begin anew.
func (s *witness) blindfold(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = yes
	clear(s.ended)
}

// guard looks at the edge until ctx ends: what the cluster never deleted is never gone there, not for a moment.
func (s *witness) guard(ctx context.Context) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		api, err := s.w.localAPI()
		if err != nil {
			continue // the edge is one of the things that fail
		}
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, missing1 := api.CoreV1().ConfigMaps(namespace).Get(call, "settings", metav1.GetOptions{})
		_, missing2 := api.CoreV1().Secrets(namespace).Get(call, "secret", metav1.GetOptions{})
		cancel()
		for _, err := range []error{missing1, missing2} {
			// A database that was made anew may lack it, and then no kubelet runs on it.
			if apierrors.IsNotFound(err) && s.w.kubeletRuns(ctx) {
				s.mu.Lock()
				s.faults = append(s.faults, fmt.Errorf("the edge lacked what the cluster had all the time: %w", err))
				s.mu.Unlock()
				return
			}
		}
	}
}

// forgive: the cluster goes back to an older state.
func (s *witness) forgive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.ended)
}

// wrong returns what the cluster showed and should not have.
func (s *witness) wrong() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.faults...)
}
