// Package drill is what an operator and a node say to each other about a drill: the node's link is cut by agreement, for real
// and for a while, to see whether the site goes on alone.
//
// Both speak through annotations of the node's Node, so that an order travels as state, like everything else: who reads it
// late reads the present, and nobody has to be there when it is read. The operator writes AnnotationOrder, the node answers
// with AnnotationState, which ends with a report. common/keadm writes the one, edge/drill the other.
package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The annotations of a Node that a drill is spoken of in. CloudCore lets no edge write those of tether.io, so a node's own are of
// edge.tether.io.
const (
	// AnnotationOrder holds an Order, as JSON; it is the cluster's.
	AnnotationOrder = "tether.io/drill"
	// AnnotationState holds a State, as JSON; it is the node's, which takes it away once there is no order.
	AnnotationState = "edge.tether.io/drill-state"
	// AnnotationStop holds the ID of a drill that is to end now. It is written at the node, which can be reached by nobody else.
	AnnotationStop = "edge.tether.io/drill-stop"
)

const (
	// Min and Max are how long a drill may take.
	Min, Max = 10 * time.Second, 24 * time.Hour
	// MaxAge is how old an order may be that a node begins: one that it meets after a long time away is nobody's wish any more.
	MaxAge = 5 * time.Minute
	// AgreeWithin is how long the cluster has to show the node's agreement before the node calls the drill off.
	AgreeWithin = time.Minute
	// MaxOrder and MaxState bound what is in the annotations, in bytes. A Node travels whole, so they are small.
	MaxOrder, MaxState = 1 << 10, 6 << 10
)

// An Order asks a node for a drill.
type Order struct {
	// ID tells one order from another: 1 to 32 letters and digits.
	ID string `json:"id"`
	// For is how long the link is to be cut, from Min to Max.
	For metav1.Duration `json:"for"`
	// Power has the agent killed in the middle, as a power cut of it would.
	Power bool `json:"power,omitempty"`
	// Force begins though the node says that it cannot go on alone.
	Force bool `json:"force,omitempty"`
	// Issued is when the order was given, by the operator's clock.
	Issued time.Time `json:"issued"`
}

// ErrCut marks what a drill keeps from the cloud.
var ErrCut = errors.New("cut by drill")

// ErrOrder marks an order that is none.
var ErrOrder = errors.New("not an order for a drill")

var idForm = regexp.MustCompile(`^[A-Za-z0-9]{1,32}$`)

// ParseOrder reads an annotation. The error matches ErrOrder and says what was expected and found. Fields that are not
// known are left aside: a newer keadm may say more.
func ParseOrder(text string) (Order, error) {
	var o Order
	if len(text) > MaxOrder {
		return o, fmt.Errorf("%w: expected at most %d bytes, found %d", ErrOrder, MaxOrder, len(text))
	}
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return Order{}, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	switch {
	case !idForm.MatchString(o.ID):
		return Order{}, fmt.Errorf("%w: id: expected 1 to 32 letters and digits, found %q", ErrOrder, o.ID)
	case o.For.Duration < Min || o.For.Duration > Max:
		return o, fmt.Errorf("%w: for: expected %s to %s, found %s", ErrOrder, Min, Max, o.For.Duration)
	case o.Issued.IsZero():
		return o, fmt.Errorf("%w: issued: expected a time, found none", ErrOrder)
	}
	return o, nil
}

// Text is the order as an annotation.
func (o Order) Text() string {
	b, _ := json.Marshal(o) // no value of its fields fails
	return string(b)
}

// Phase is how far a drill has come.
type Phase string

// The phases. A drill that takes place goes from Agreed to Done; the cluster sees nothing of Cut before the link is back.
const (
	Refused   Phase = "refused"    // the node does not begin; Why says why
	CalledOff Phase = "called-off" // agreed to and not begun; Why says why
	Agreed    Phase = "agreed"     // it begins once the cluster shows this word
	Cut       Phase = "cut"        // the link is cut until Until
	Back      Phase = "back"       // the link may be tried again, and what waited is under way
	Done      Phase = "done"       // Report says how it went
)

// Over reports whether nothing follows any more.
func (p Phase) Over() bool { return p == Refused || p == CalledOff || p == Done }

// A State is what a node says of its latest drill.
type State struct {
	// ID is the order's; empty where the order had none.
	ID    string `json:"id"`
	Phase Phase  `json:"phase"`
	Why   string `json:"why,omitempty"`
	// Until is when the cut ends, by the node's clock, once it is agreed.
	Until time.Time `json:"until,omitzero"`
	// Report is there once the drill is done.
	Report *Report `json:"report,omitempty"`
}

// A Report is what the node saw. Times are by its clock.
type Report struct {
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// End says what ended the cut: its deadline, or somebody at the node.
	End string `json:"end"`
	// Power says that the agent was killed in the middle, as ordered; Starts is how often it started during the cut.
	Power  bool `json:"power,omitempty"`
	Starts int  `json:"starts,omitempty"`
	// Pods and Containers are how many were watched.
	Pods       int `json:"pods"`
	Containers int `json:"containers"`
	// Reads of the local API were made, of which Unanswered got no answer; Slowest is the longest that one took.
	Reads      int             `json:"reads"`
	Unanswered int             `json:"unanswered,omitempty"`
	Slowest    metav1.Duration `json:"slowest"`
	// DeviceUpdates are updates of twins by mappers and clients.
	DeviceUpdates uint64 `json:"deviceUpdates"`
	// Waited is what waited for the cloud when the cut ended, by class; Lost is how many messages went undelivered.
	Waited []Waiting `json:"waited,omitempty"`
	Lost   uint64    `json:"lost,omitempty"`
	// Linked and Delivered are how long after the end of the cut the link was up and all was delivered that had waited then.
	Linked    metav1.Duration `json:"linked"`
	Delivered metav1.Duration `json:"delivered"`
	// Changes are what happened to pods; MoreChanges how many more there were than fit in.
	Changes     []Change `json:"changes,omitempty"`
	MoreChanges int      `json:"moreChanges,omitempty"`
	// Broke are the things that a site is not to notice of a cut and did; empty if it went well. MoreBroke as MoreChanges.
	Broke     []string `json:"broke,omitempty"`
	MoreBroke int      `json:"moreBroke,omitempty"`
}

// Waiting are the messages of a class that waited for the cloud.
type Waiting struct {
	Class string `json:"class"`
	Count int64  `json:"count"`
	Bytes int64  `json:"bytes"`
}

// A Change is something that happened.
type Change struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// ParseState reads an annotation. The error says what was found.
func ParseState(text string) (*State, error) {
	s := &State{}
	if err := json.Unmarshal([]byte(text), s); err != nil {
		return nil, fmt.Errorf("annotation %s: expected what a node says of a drill: %w", AnnotationState, err)
	}
	return s, nil
}

const maxWhy = 300

// Text is the state as an annotation of at most MaxState bytes: of a report that is larger the last changes are left out, then
// the last of what broke, and counted.
func (s State) Text() string {
	s.Why = shorten(s.Why)
	if s.Report != nil {
		r := *s.Report
		r.Changes, r.Broke = append([]Change(nil), r.Changes...), append([]string(nil), r.Broke...)
		for i := range r.Changes {
			r.Changes[i].What = shorten(r.Changes[i].What)
		}
		for i := range r.Broke {
			r.Broke[i] = shorten(r.Broke[i])
		}
		s.Report = &r
	}
	for {
		b, _ := json.Marshal(s) // no value of its fields fails
		r := s.Report
		switch {
		case len(b) <= MaxState || r == nil:
			return string(b)
		case len(r.Changes) > 0:
			r.Changes, r.MoreChanges = r.Changes[:len(r.Changes)-1], r.MoreChanges+1
		case len(r.Broke) > 0:
			r.Broke, r.MoreBroke = r.Broke[:len(r.Broke)-1], r.MoreBroke+1
		default:
			return string(b)
		}
	}
}

func shorten(s string) string {
	if len(s) <= maxWhy {
		return s
	}
	return strings.ToValidUTF8(s[:maxWhy-3], "") + "..."
}
