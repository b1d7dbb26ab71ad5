package autonomy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/horizon"
	"github.com/tether-edge/tether/edge/store"
)

// node shows the judgement at this node's Node.
type node struct{ *ownnode.Node }

func (n node) Shown(ctx context.Context) (s horizon.Shown, ok bool, err error) {
	o, _, err := n.Get(ctx)
	if errors.Is(err, ownnode.ErrGone) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	c := ownnode.Condition(o, object.ConditionAutonomy)
	return horizon.Shown{Status: c.Status, Reason: c.Reason, Message: c.Message, Until: o.Annotations[object.AnnotationAutonomyUntil]}, true, nil
}

func (n node) Show(ctx context.Context, s horizon.Shown) error {
	return n.Node.Show(ctx, map[string]*string{object.AnnotationAutonomyUntil: &s.Until},
		corev1.NodeCondition{Type: object.ConditionAutonomy, Status: s.Status, Reason: s.Reason, Message: s.Message})
}

func (n node) Event(ctx context.Context, e horizon.Event) error {
	return n.Node.Event(ctx, e.Warning, e.Reason, e.Message)
}

// decode reads the object of a record.
func decode[T object.Object](rec *object.Record) (o T, err error) {
	kind, ok := object.Lookup(rec.Key.Kind)
	if !ok {
		return o, fmt.Errorf("%s is no kind of this program", rec.Key.Kind)
	}
	decoded, err := object.Decode(kind, rec.Body)
	if err != nil {
		return o, fmt.Errorf("read %s: %w", rec.Key, err)
	}
	return decoded.(T), nil
}

// memory keeps which causes were told as one note.
type memory struct{ *store.Store }

const (
	toldBucket = "autonomy"
	toldKey    = "told"
)

func (m memory) Told(ctx context.Context) (told []horizon.Cause, err error) {
	err = m.Notes(ctx, toldBucket, func(_ string, value []byte) error {
		// One that cannot be read is as none: the causes are told again.
		_ = json.Unmarshal(value, &told)
		return nil
	})
	return told, err
}

func (m memory) Tell(ctx context.Context, told []horizon.Cause) error {
	value, err := json.Marshal(told)
	if err != nil {
		return err
	}
	return m.Keep(ctx, []store.Note{{Bucket: toldBucket, Key: toldKey, Value: value}})
}
