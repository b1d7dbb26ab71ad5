package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is how far the kubelet's start has come.
type State string

// The states, in the order in which a start passes through them.
const (
	StateWaitingSync    State = "waiting-sync"    // the store holds no completed sync yet
	StateWaitingHost    State = "waiting-host"    // the machine lacks something the kubelet cannot start without
	StateWaitingRuntime State = "waiting-runtime" // the container runtime or the image service does not answer
	StateDelayed        State = "delayed"         // earlier tries ended the process: the next one is at Until
	StateStarting       State = "starting"        // the kubelet's code runs, the Node's status has not been accepted
	StateRunning        State = "running"         // status and CSINode were accepted
)

var states = []State{StateWaitingSync, StateWaitingHost, StateWaitingRuntime, StateDelayed, StateStarting, StateRunning}

// Status is what an operator is shown.
type Status struct {
	State State `json:"state"`
	// Since is when State began.
	Since time.Time `json:"since"`
	// Attempts counts the tries that ended the process since the kubelet was last stable, this one not included.
	Attempts int `json:"attempts"`
	// Until is when the next try begins at the earliest; zero if nothing delays it.
	Until time.Time `json:"until,omitzero"`
	// Reason says what is waited for, or how the last try ended; empty if all is well.
	Reason string `json:"reason,omitempty"`
}

// Status returns the present state. It never blocks for long and may be called from any goroutine, before Start too.
func (k *Kubelet) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// enter changes the state; the rest of the status is edit's.
func (k *Kubelet) enter(state State, edit func(*Status)) {
	k.mu.Lock()
	before := k.status
	if k.status.State != state {
		k.status.State, k.status.Since = state, k.clock.Now()
	}
	edit(&k.status)
	after := k.status
	k.mu.Unlock()
	if after == before {
		return
	}
	k.log.Info("kubelet state", "state", after.State, "attempts", after.Attempts, "until", after.Until, "reason", after.Reason)
	if k.onChange != nil {
		k.onChange(after)
	}
}

// register adds the gauges; they read Status.
func (k *Kubelet) register(r prometheus.Registerer) error {
	for _, state := range states {
		err := r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "tether_edge_kubelet_state",
			Help:        "1 for the state that the embedded kubelet's start is in, 0 for the others.",
			ConstLabels: prometheus.Labels{"state": string(state)},
		}, func() float64 {
			if k.Status().State == state {
				return 1
			}
			return 0
		}))
		if err != nil {
			return err
		}
	}
	return r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tether_edge_kubelet_failed_starts",
		Help: "Starts of the embedded kubelet that ended the process since it was last stable.",
	}, func() float64 { return float64(k.Status().Attempts) }))
}
