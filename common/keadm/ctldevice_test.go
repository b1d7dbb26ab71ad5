package keadm

import (
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

func TestDescribeTellsOfADevice(t *testing.T) {
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		m := metav1.ObjectMeta{Namespace: "plant", Name: "pump-1", CreationTimestamp: metav1.NewTime(today.Add(-time.Hour))}
		reported := func(value, at string) *v1beta1.TwinProperty {
			return &v1beta1.TwinProperty{Value: value, Metadata: map[string]string{"timestamp": at}}
		}
		twins := []v1beta1.Twin{{PropertyName: "speed", Reported: reported("6", "1906545480000")}, // 120 s before today
			{PropertyName: "text", Reported: reported("\x1b[2J\n"+strings.Repeat("y", 300), "never")}}
		switch r.URL.Path {
		case "/apis/devices.kubeedge.io/v1beta1/namespaces/plant/devices/pump-1":
			twins[0].ObservedDesired = &v1beta1.TwinProperty{Value: "7"} // which no mapper has seen
			legacy := []v1beta1.LegacyTwin{v1beta1.LegacyTwin(twins[0]), v1beta1.LegacyTwin(twins[1])}
			answerWith(t, w, v1beta1.Device{ObjectMeta: m, Status: &v1beta1.LegacyStatus{Twins: legacy}, Spec: v1beta1.DeviceSpec{DeviceModelRef: &v1beta1.ModelReference{Name: "pump"},
				Methods: []v1beta1.DeviceMethod{{Name: "start", PropertyNames: []string{"speed"}}}}})
		case "/apis/devices.kubeedge.io/v1beta1/namespaces/plant/devicestatuses/pump-1":
			answerWith(t, w, v1beta1.DeviceStatus{ObjectMeta: m, Status: v1beta1.DeviceStatusStatus{State: "online", Twins: twins, Conditions: []metav1.Condition{{Type: v1beta1.ConditionMapperConnected, Status: metav1.ConditionFalse, Reason: "MapperAway", Message: "it does not answer"}}}})
		case "/api/v1/namespaces/plant/events":
			answerWith(t, w, corev1.EventList{Items: []corev1.Event{{Type: "Warning", Reason: "DesireReplaced", Message: "50 is replaced by 60", LastTimestamp: metav1.NewTime(today.Add(-time.Minute))}}})
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			answerWith(t, w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound,
				Message: `devices.devices.kubeedge.io "none" not found`})
		}
	})
	for _, name := range [][]string{{"device", "pump-1"}, {"dev/pump-1"}} {
		out := do(t, append([]string{"ctl", "describe", "-n", "plant", "--config", files.config}, name...)...)
		for _, want := range []string{"Mapper:       not connected, MapperAway: it does not answer\n", "Model:        pump\n", "State:        online\n", "Method:  start(speed)\n",
			"  speed     7        6 ", "  2m\n", `\x1b[2J\n` + strings.Repeat("y", 71) + "... (305 bytes)  <unknown>\n", "Warning  DesireReplaced  60s  50 is replaced by 60\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("expected %q in\n%s", want, out)
			}
		}
	}
	if code, _, errOut := call(t, today, "ctl", "describe", "device", "none", "--config", files.config); code != 1 || !strings.Contains(errOut, `"none" not found`) {
		t.Errorf("of no device: exit %d, %s", code, errOut)
	}
}
