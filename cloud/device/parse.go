package device

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Limits on the body of a report, beside those of the device's values (docs/devices.md).
const (
	maxBody = v1beta1.MaxReport
	// maxValues bounds the values of its JSON. A twin with both properties and three entries of metadata each has 14.
	maxValues = 32_000
	// maxState and maxOnline bound texts that are a word and a time; maxSaid the message of a condition.
	maxState, maxOnline = 64, 64
	maxReason, maxSaid  = 1024, 32768
)

// A Report is the body of a write of kind DeviceStatus: all that the edge knows of the device, so that the newest replaces
// every earlier one.
type Report struct {
	// UID is the Device's.
	UID   string         `json:"uid"`
	Twins []v1beta1.Twin `json:"twins,omitempty"`
	// State and LastOnlineTime are as in a DeviceStatus; empty where nothing is known.
	State          string `json:"state,omitempty"`
	LastOnlineTime string `json:"lastOnlineTime,omitempty"`
	// Conditions are MapperConnected and Reported; those of other types are left out. Where lastTransitionTime is absent or in
	// the future, it is when CloudCore was told.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// edgeConditions are the conditions that edges report.
var edgeConditions = []string{v1beta1.ConditionMapperConnected, v1beta1.ConditionReported}

// reasonPattern is that of the definition's schema.
var reasonPattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$`)

// parse reads a report for the Device of that uid, which may be empty if the body has one. It takes nothing that the API
// server would refuse: such a refusal would be of the whole object, conditions of CloudCore included.
func parse(body []byte, uid string) (*Report, *wire.Result) {
	r := &Report{}
	if err := decode(body, r); err != nil {
		return nil, refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, "report: %v", err)
	}
	if r.UID == "" {
		r.UID = uid
	}
	if r.UID == "" || len(r.UID) > object.MaxUID || uid != "" && r.UID != uid {
		return nil, refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, "report: expected the uid of a Device, the same in body and write, found %.80q and %.80q", r.UID, uid)
	}
	if found := device.JudgeReported(r.Twins); len(found) > 0 {
		reason, message := device.Summary(found)
		return nil, refusal(http.StatusUnprocessableEntity, metav1.StatusReason(reason), "report: %s", message)
	}
	if err := r.check(); err != nil {
		return nil, refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "report: %v", err)
	}
	r.Conditions = slices.DeleteFunc(r.Conditions, func(c metav1.Condition) bool { return !slices.Contains(edgeConditions, c.Type) })
	return r, nil
}

func decode(body []byte, r *Report) error {
	if len(body) > maxBody {
		return fmt.Errorf("expected at most %d bytes, found %d", maxBody, len(body))
	}
	if err := device.CheckJSON(body); err != nil {
		return err
	}
	if err := object.VetValues(body, maxValues); err != nil {
		return err
	}
	return json.Unmarshal(body, r)
}

func (r *Report) check() error {
	if len(r.State) > maxState || len(r.LastOnlineTime) > maxOnline {
		return fmt.Errorf("expected a state of at most %d bytes and a lastOnlineTime of at most %d, found %d and %d", maxState, maxOnline, len(r.State), len(r.LastOnlineTime))
	}
	names := make(map[string]bool, len(r.Twins))
	for _, t := range r.Twins {
		if t.PropertyName == "" || names[t.PropertyName] {
			return fmt.Errorf("expected a name for each property, each once, found %.80q", t.PropertyName)
		}
		names[t.PropertyName] = true
		if t.ObservedDesired != nil && len(t.ObservedDesired.Value) > v1beta1.MaxDesiredBytes {
			return fmt.Errorf("property %.80q: expected at most %d bytes of observedDesired, found %d", t.PropertyName, v1beta1.MaxDesiredBytes, len(t.ObservedDesired.Value))
		}
	}
	types := map[string]bool{}
	for _, c := range r.Conditions {
		if !slices.Contains(edgeConditions, c.Type) {
			continue
		}
		if types[c.Type] {
			return fmt.Errorf("expected condition %s once", c.Type)
		}
		types[c.Type] = true
		if !slices.Contains([]metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown}, c.Status) {
			return fmt.Errorf("condition %s: expected status True, False or Unknown, found %.80q", c.Type, c.Status)
		}
		if len(c.Reason) > maxReason || !reasonPattern.MatchString(c.Reason) || len(c.Message) > maxSaid || c.ObservedGeneration < 0 {
			return fmt.Errorf("condition %s: expected a reason of letters and digits, at most %d bytes of message and no negative generation, found %.80q, %d and %d",
				c.Type, maxSaid, c.Reason, len(c.Message), c.ObservedGeneration)
		}
	}
	return nil
}

// refusal is a final answer.
func refusal(code int32, reason metav1.StatusReason, format string, args ...any) *wire.Result {
	return &wire.Result{Code: code, Final: true, Reason: string(reason), Message: fmt.Sprintf(format, args...)}
}

// later is an answer after which the edge sends its newest report again.
func later(code int32, reason metav1.StatusReason, after time.Duration, format string, args ...any) *wire.Result {
	return &wire.Result{Code: code, Reason: string(reason), RetryAfterMs: after.Milliseconds(), Message: fmt.Sprintf(format, args...)}
}
