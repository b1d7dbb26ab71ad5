package device

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// meddle changes the DeviceStatus of the pump as somebody with the right to may.
func (w *world) meddle(t *testing.T, change func(*v1beta1.DeviceStatus)) {
	t.Helper()
	s := w.status(t, "pump")
	change(s)
	w.put(s)
}

// whole says what is shown of the pump.
func (w *world) whole(t *testing.T) string {
	t.Helper()
	s, err := w.Status(t.Context(), named("pump"))
	if err != nil {
		return "nothing"
	}
	return value(s) + " " + s.Status.State + " " + condition(s, "Ready") + " " + condition(s, "MapperConnected") + " " + reporter(s)
}

const wellAgain = "45 ok True Fits True Registered edge-1"

func TestWhatSomebodyDoesToAStatusIsPutRightAtOnce(t *testing.T) {
	key := object.Key{Kind: object.DeviceStatuses, Namespace: testNamespace, Name: "pump"}
	for name, harm := range map[string]func(t *testing.T, w *world){
		"deleted": func(_ *testing.T, w *world) { w.remove(key) },
		"a value changed": func(t *testing.T, w *world) {
			w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status.Twins[0].Reported.Value = "99" })
		},
		"all of it emptied": func(t *testing.T, w *world) {
			w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status = v1beta1.DeviceStatusStatus{} })
		},
		"replaced by one without annotations": func(t *testing.T, w *world) {
			w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Annotations, s.Status.State = nil, "offline" })
		},
		"a condition changed": func(t *testing.T, w *world) {
			w.meddle(t, func(s *v1beta1.DeviceStatus) {
				s.Status.Conditions[indexOf(s.Status.Conditions, "MapperConnected")].Status = metav1.ConditionFalse
			})
		},
		"deleted and made by hand": func(_ *testing.T, w *world) {
			w.remove(key)
			w.put(&v1beta1.DeviceStatus{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: "pump"}, Status: v1beta1.DeviceStatusStatus{State: "unhealthy"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
				d := w.add(t, "pump", "edge-1")
				for _, v := range []string{"43", "44", "45"} {
					say(t, all[0], "edge-1", d, v)
				}
				time.Sleep(time.Hour)
				w.written()
				harm(t, w)
				time.Sleep(time.Second)
				if got := w.whole(t); got != wellAgain {
					t.Errorf("a second later it is %s, expected %s", got, wellAgain)
				}
				if n, _ := w.written(); n > 2 {
					t.Errorf("it took %d writes", n)
				}
				if all := w.happened(); len(all) == 0 || !strings.HasPrefix(all[0], "pump StatusRestored: Somebody else ") || !strings.Contains(all[0], "edge-1") {
					t.Errorf("Events %q, expected one that says so", all)
				}
				time.Sleep(time.Hour)
				if n, _ := w.written(); n > 0 {
					t.Errorf("%d writes afterwards, for nothing", n)
				}
			})
		})
	}
}

// A copy that somebody saved has a seal that fits.
func TestAnOlderCopyIsNotTakenForAReport(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "44")
		saved := w.status(t, "pump")
		say(t, all[0], "edge-1", d, "45")
		w.put(saved)
		time.Sleep(time.Second)
		if got := w.whole(t); got != wellAgain {
			t.Errorf("it is %s, expected %s", got, wellAgain)
		}
	})
}

// Who insists is answered less and less often, and what the node reports meanwhile is written all the same.
func TestWhoInsistsCausesNoStorm(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "45")
		w.written()
		w.mu.Lock()
		w.follow[100] = func(keys []object.Key) {
			if keys[0].Kind != object.DeviceStatuses {
				return
			}
			if s := w.status(t, "pump"); value(s) != "99" {
				s.Status.Twins[0].Reported.Value = "99"
				w.put(s)
			}
		}
		w.mu.Unlock()
		w.tell(keyOf(w.status(t, "pump")))
		time.Sleep(time.Hour)
		n, _ := w.written()
		if n < 10 || n > 30 {
			t.Errorf("%d writes in an hour, expected fewer and fewer", n)
		}
		if said := w.happened(); len(said) != n || !strings.Contains(said[n-1], "after 5m0s at the earliest") {
			t.Errorf("%d Events for %d writes, the last of them %q", len(said), n, said[len(said)-1])
		}
		start := time.Now()
		say(t, all[0], "edge-1", d, "46")
		if took := time.Since(start); took > time.Second {
			t.Errorf("a report took %v", took)
		}
		w.mu.Lock()
		delete(w.follow, 100)
		w.mu.Unlock()
		time.Sleep(contestLast + time.Second)
		if got := value(w.status(t, "pump")); got != "46" {
			t.Errorf("once nobody insists any more the value is %s, expected that of the last report", got)
		}
	})
}

// Each CloudCore knows what the other wrote.
func TestTwoCloudCoresPutAStatusRightTogether(t *testing.T) {
	run(t, 2, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		for i, v := range []string{"43", "44", "45"} {
			w.leave(1 - i%2)
			say(t, all[i%2], "edge-1", d, v)
			time.Sleep(time.Second)
		}
		w.written()
		w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status.Twins[0].Reported.Value = "99" })
		time.Sleep(10 * time.Second)
		if got := w.whole(t); got != wellAgain {
			t.Errorf("it is %s, expected %s", got, wellAgain)
		}
		if n, _ := w.written(); n > 4 {
			t.Errorf("%d writes of two", n)
		}
		time.Sleep(time.Hour)
		if n, _ := w.written(); n > 0 {
			t.Errorf("%d writes in an hour in which nothing changed", n)
		}
	})
}

// A CloudCore of a release before the seals leaves the annotation as it finds it.
func TestTheReportOfAnOlderCloudCoreIsNotTakenForAnEdit(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "43")
		w.leave(0)
		w.written()
		w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status.Twins[0].Reported.Value = "44" })
		time.Sleep(time.Hour)
		w.leave()
		w.tell(keyOf(w.status(t, "pump")))
		time.Sleep(time.Hour)
		if n, _ := w.written(); n > 0 || value(w.status(t, "pump")) != "44" {
			t.Errorf("after %d writes the value is %s, expected that of the CloudCore which had the node", n, value(w.status(t, "pump")))
		}
		if said := w.happened(); len(said) > 0 {
			t.Errorf("Events %q", said)
		}
		say(t, all[0], "edge-1", d, "45")
		w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status.Twins[0].Reported.Value = "99" })
		time.Sleep(time.Second)
		if got := w.whole(t); got != wellAgain {
			t.Errorf("once the node is here and has reported it is %s, expected %s", got, wellAgain)
		}
	})
}

// What is not there any more is nobody's report, whoever has the node.
func TestADeletedStatusIsPutBackByWhoeverKnowsIt(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		say(t, all[0], "edge-1", w.add(t, "pump", "edge-1"), "45")
		w.leave(0)
		w.remove(keyOf(w.status(t, "pump")))
		time.Sleep(time.Second)
		if got := w.whole(t); got != wellAgain {
			t.Errorf("it is %s, expected %s", got, wellAgain)
		}
	})
}

// What one node said is nothing to put back once the device is another's, or another device.
func TestOnlyWhatIsOfTheDeviceIsPutBack(t *testing.T) {
	key := object.Key{Kind: object.DeviceStatuses, Namespace: testNamespace, Name: "pump"}
	for name, change := range map[string]func(w *world, d *v1beta1.Device){
		"moved there and back": func(w *world, d *v1beta1.Device) {
			d.Spec.NodeName = "edge-2"
			w.put(d)
			synctest.Wait()
			d.Spec.NodeName = "edge-1"
			w.put(d)
		},
		"made anew": func(w *world, d *v1beta1.Device) { d.UID = "uid-0"; w.put(d) },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
				d := w.add(t, "pump", "edge-1")
				say(t, all[0], "edge-1", d, "45")
				change(w, d)
				time.Sleep(time.Second)
				w.remove(key)
				time.Sleep(time.Second)
				if got := w.whole(t); got != "  Unknown AwaitingReport Unknown AwaitingReport " {
					t.Errorf("it is %q", got)
				}
				if all := w.happened(); len(all) > 0 {
					t.Errorf("Events %q", all)
				}
			})
		})
	}
}

// A CloudCore that starts knows what the one before it wrote, also where that knew of no seals.
func TestWhatWasThereAtTheStartIsPutBack(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		run(t, 1, Config{}, func(t *testing.T, w *world, _ []*Controller) {
			d := newDevice("pump", "edge-1")
			d.UID = "uid-pump"
			r, refused := parse(body("45"), "uid-pump")
			if refused != nil {
				t.Fatal(refused)
			}
			s, err := desire(view{device: d, model: newModel("60")}, nil, r, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if !sealed {
				delete(s.Annotations, AnnotationReport)
			}
			w.put(s)
			w.put(d)
			synctest.Wait()
			if n, _ := w.written(); n > 0 {
				t.Errorf("%d writes of what is as it should be", n)
			}
			w.remove(keyOf(s))
			time.Sleep(time.Second)
			if got := w.whole(t); got != wellAgain {
				t.Errorf("sealed %v: it is %s, expected %s", sealed, got, wellAgain)
			}
		})
	}
}

// A report that comes while somebody has changed the status is not taken for late.
func TestAReportIsWrittenOverWhatIsNobodysReport(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		d := w.add(t, "pump", "edge-1")
		say(t, all[0], "edge-1", d, "44")
		w.stopCache()
		w.meddle(t, func(s *v1beta1.DeviceStatus) { s.Status.State = "offline" })
		say(t, all[0], "edge-1", d, "45")
		if got := w.whole(t); got != wellAgain {
			t.Errorf("it is %s", got)
		}
	})
}

// mute records no Events.
type mute struct{ *world }

func (mute) Happened(context.Context, *corev1.Event) error { return errors.New("no room") }

func TestAnEventThatCannotBeRecordedHoldsUpNothing(t *testing.T) {
	run(t, 1, Config{}, func(t *testing.T, w *world, all []*Controller) {
		all[0].deps.API = mute{w}
		say(t, all[0], "edge-1", w.add(t, "pump", "edge-1"), "45")
		w.remove(keyOf(w.status(t, "pump")))
		time.Sleep(time.Second)
		if got := w.whole(t); got != wellAgain {
			t.Errorf("it is %s", got)
		}
	})
}
