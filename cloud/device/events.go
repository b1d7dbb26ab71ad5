package device

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// reasonRestored is that of the Event which says that a DeviceStatus was put right.
const reasonRestored = "StatusRestored"

// sayRestored counts and tells that somebody deleted or changed a DeviceStatus and that it is as it was; the next time it will be so at
// the earliest after a time. There are no more of these Events than such writes.
func (c *Controller) sayRestored(ctx context.Context, d *v1beta1.Device, w plan, next time.Duration) {
	what := "changed"
	if w.current == nil {
		what = "deleted"
	}
	c.m.restored.WithLabelValues(what).Inc()
	message := fmt.Sprintf("Somebody else %s the DeviceStatus: CloudCore put back what node %s reported.", what, d.Spec.NodeName)
	if next > 0 {
		message += fmt.Sprintf(" That goes on, so the next time comes after %s at the earliest.", next.Round(time.Second))
	}
	now := metav1.NewTime(c.deps.Now())
	err := c.deps.API.Happened(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: d.Namespace, Name: fmt.Sprintf("%s.%x", d.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{APIVersion: v1beta1.GroupVersion.String(), Kind: v1beta1.DeviceKind, Namespace: d.Namespace, Name: d.Name, UID: d.UID},
		Reason:         reasonRestored, Message: message, Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: fieldManager}, FirstTimestamp: now, LastTimestamp: now, Count: 1, ReportingController: "tether.io/cloudcore",
	})
	if err != nil {
		c.deps.Log.Warn("an Event cannot be recorded", "namespace", d.Namespace, "device", d.Name, "message", message, "error", err)
	}
}
