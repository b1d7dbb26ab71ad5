package drill

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/tether-edge/tether/common/drill"
)

// A note is all that is known of the latest drill; step is its state machine. It is pure, and everything that is done follows
// from the note: the gate is shut while it says Cut, and the Node shows its state. So a note that was read from the disk goes on
// where the last one ended.
type note struct {
	// Heard tells the order that this is about from others; empty for none.
	Heard string      `json:"heard,omitempty"`
	Order drill.Order `json:"order"`
	Phase drill.Phase `json:"phase,omitempty"`
	Why   string      `json:"why,omitempty"`
	// Left was what was left of the cut At that moment; in other phases At is when they began.
	Left time.Duration `json:"left,omitempty"`
	At   Moment        `json:"at"`
	// Powered says that the agent was killed, or is about to be.
	Powered bool      `json:"powered,omitempty"`
	Began   time.Time `json:"began,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	End     string    `json:"end,omitempty"`
	// Last is the newest message that waited for the cloud when the cut ended.
	Last uint64 `json:"last,omitempty"`
	// Linked is how long after the cut the link was up first, LinkedAt the moment since which it is.
	Linked   time.Duration `json:"linked,omitempty"`
	LinkedAt Moment        `json:"linkedAt"`
	// Delivered is how long after the cut nothing that had waited then waited any more; 0 if it was not waited for longer.
	Delivered time.Duration `json:"delivered,omitempty"`
}

// How a cut ends.
const (
	endDeadline = "its deadline"
	endStopped  = "somebody at the node"
)

// deliverWithin is how long a link that is up has for what waited during the cut.
const deliverWithin = 5 * time.Minute

// A Node is what the store has of this node's Node.
type Node struct {
	// Order and Shown are the order and this node's state, as the cluster shows them.
	Order, Shown string
	// State and Stop are this node's state and what was written here to stop a drill, as the local API shows them.
	State, Stop string
	// Dependent says why the node cannot go on alone; empty if it can, or nobody knows.
	Dependent string
}

// input is what a step goes by.
type input struct {
	now Moment
	// node is nil while the store has none.
	node *Node
	// may are the reasons of this node's own not to begin.
	may objections
	// unkept is why the last note is not on the disk; empty if it is.
	unkept string
	// linked: the link is up, and this node has caught up with the cloud.
	linked bool
	// first and last are the oldest and the newest message that wait for the cloud; 0 if none does.
	first, last uint64
}

type objections struct {
	disabled, unsupervised bool
	// kubelet is the state of a kubelet that does not run.
	kubelet string
}

// step returns the note that follows, the same one where nothing does.
func (n note) step(in input) note {
	switch n.Phase {
	case drill.Agreed:
		return n.await(in)
	case drill.Cut:
		return n.endure(in)
	case drill.Back:
		return n.settle(in)
	}
	return n.hear(in)
}

// unheard reports whether there is another order than that of n.
func (in input) unheard(n note) bool { return in.node != nil && heard(in.node.Order) != n.Heard }

// hear looks for an order that was not heard before.
func (n note) hear(in input) note {
	switch {
	case !in.unheard(n):
		return n
	case in.node.Order == "":
		return note{}
	case !in.linked:
		return n // nobody would hear the answer; meanwhile the order grows old
	}
	next := note{Heard: heard(in.node.Order), Phase: drill.Agreed, At: in.now}
	var err error
	if next.Order, err = drill.ParseOrder(in.node.Order); err != nil {
		next.Why = err.Error()
	} else {
		next.Why = in.objection(next.Order)
	}
	if next.Why != "" {
		next.Phase = drill.Refused
	}
	return next
}

// objection is why this node does not begin, empty if it does.
func (in input) objection(o drill.Order) string {
	age := in.now.Wall.Sub(o.Issued)
	switch {
	case in.may.disabled:
		return "this node takes part in no drills: its configuration says drills: false"
	case age.Abs() > drill.MaxAge:
		return fmt.Sprintf("the order is of %s, and here it is %s: expected one of the last %s; if it was given just now, one of the clocks is wrong",
			stamp(o.Issued), stamp(in.now.Wall), drill.MaxAge)
	case in.may.kubelet != "":
		return "the kubelet does not run: it is " + in.may.kubelet
	case o.Power && in.may.unsupervised:
		return "nobody would start edgecore again: expected systemd or 'keadm supervise' to watch over it"
	case in.node.Dependent != "" && !o.Force:
		return "this node cannot go on alone: " + in.node.Dependent + "; order it with --force to see what comes of it"
	}
	return ""
}

// await begins once the cluster shows that this node agreed: from then on everybody can know why the node is away.
func (n note) await(in input) note {
	off := func(why string) note {
		n.Phase, n.Why, n.At, n.Left = drill.CalledOff, why, in.now, 0
		return n
	}
	switch {
	case in.unheard(n):
		return off("the order was withdrawn")
	case in.node != nil && in.node.Stop == n.Order.ID:
		return off(endStopped + " stopped it")
	case in.now.since(n.At) > drill.AgreeWithin && in.unkept != "":
		return off("the agreement could not be kept on the disk: " + in.unkept)
	case in.now.since(n.At) > drill.AgreeWithin:
		return off(fmt.Sprintf("the cluster did not show this node's agreement within %s", drill.AgreeWithin))
	case in.node == nil || in.node.Shown != n.state().Text():
		return n
	}
	n.Phase, n.At, n.Left = drill.Cut, in.now, n.Order.For.Duration
	n.Began, n.Until = in.now.Wall, in.now.Wall.Add(n.Left)
	return n
}

// left is what is left of the cut. After a reboot, which ends what Up tells, it is at most what was noted last but for the time
// between two notes: many reboots make the cut shorter, none longer.
func (n note) left(now Moment) time.Duration {
	left := min(n.Left, n.Order.For.Duration) - now.since(n.At)
	if now.Boot != n.At.Boot {
		left = min(left, n.Left-n.every())
	}
	return left
}

// every is how often what is left is noted: a drill of a day is no reason to write each second.
func (n note) every() time.Duration {
	return min(max(n.Order.For.Duration/60, 2*time.Second), time.Minute)
}

func (n note) endure(in input) note {
	left := n.left(in.now)
	end := ""
	switch {
	case in.node != nil && in.node.Stop == n.Order.ID:
		end = endStopped
	case left <= 0:
		end = endDeadline
	case n.Order.Power && !n.Powered && left <= n.Order.For.Duration/2:
		n.Powered = true
	case in.now.Boot == n.At.Boot && in.now.since(n.At) < n.every():
		return n
	}
	n.At, n.Left = in.now, left
	if end != "" {
		n.Phase, n.Left, n.Ended, n.End, n.Last = drill.Back, 0, in.now.Wall, end, in.last
	}
	return n
}

// settle waits for the link, for as long as it takes, and then for what had waited for it.
func (n note) settle(in input) note {
	if !in.linked {
		n.LinkedAt = Moment{} // a link that is lost again is given its time anew
		return n
	}
	if n.LinkedAt == (Moment{}) {
		n.LinkedAt = in.now
	}
	if n.Linked == 0 {
		n.Linked = max(in.now.since(n.At), time.Millisecond)
	}
	switch {
	case in.first == 0 || in.first > n.Last:
		n.Phase, n.Delivered = drill.Done, max(in.now.since(n.At), time.Millisecond)
	case in.now.since(n.LinkedAt) > deliverWithin:
		n.Phase = drill.Done
	}
	return n
}

// state is what this node says of the drill, without its report.
func (n note) state() drill.State {
	return drill.State{ID: n.Order.ID, Phase: n.Phase, Why: n.Why, Until: n.Until}
}

// heard is a short name of an order's text, empty for none.
func heard(order string) string {
	if order == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(order))
	return hex.EncodeToString(sum[:8])
}

func (n note) encode() []byte {
	b, _ := json.Marshal(n) // no value of its fields fails
	return b
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
