package keadm

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tether-edge/tether/common/drill"
)

// A stage is a cluster with the edge site, which has a pod of the ReplicaSet web, and a node that answers orders.
type stage struct {
	t   *testing.T
	api *fake.Clientset

	mu  sync.Mutex // guards out
	out bytes.Buffer
	// answer is what the node says once it heard an order; nil for a node that hears none.
	answer func(o drill.Order) drill.State
}

func (s *stage) Write(b []byte) (int, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.out.Write(b) }

func (s *stage) said() string { s.mu.Lock(); defer s.mu.Unlock(); return s.out.String() }

func webPod(name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "uid-" + "web" + "-" + "0", CreationTimestamp: metav1.Now(),
		OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "set", Controller: new(true)}}}, Spec: corev1.PodSpec{NodeName: node}}
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, answer: func(o drill.Order) drill.State { return drill.State{ID: o.ID, Phase: drill.Agreed} }}
	renewed := metav1.NewMicroTime(time.Now())
	s.api = fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "site"}, Spec: corev1.NodeSpec{ProviderID: "tether://site"},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "stock"}},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "site"}, Spec: coordinationv1.LeaseSpec{RenewTime: &renewed}},
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "set"}, Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1))}},
		webPod("web-0", "site"))
	s.api.PrependReactor("list", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		want, one := a.(clienttesting.ListAction).GetListRestrictions().Fields.RequiresExactMatch("spec.nodeName")
		if !one {
			return false, nil, nil
		}
		// The fake heeds no field selector.
		all, err := s.api.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "")
		if err != nil {
			return true, nil, err
		}
		l := &corev1.PodList{}
		for _, p := range all.(*corev1.PodList).Items {
			if p.Spec.NodeName == want {
				l.Items = append(l.Items, p)
			}
		}
		return true, l, nil
	})
	return s
}

// node changes the Node.
func (s *stage) node(change func(n *corev1.Node)) {
	s.t.Helper()
	n, err := s.api.CoreV1().Nodes().Get(context.Background(), "site", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	if n.Annotations == nil {
		n.Annotations = map[string]string{}
	}
	change(n)
	if _, err := s.api.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) says(state drill.State) {
	s.node(func(n *corev1.Node) { n.Annotations[drill.AnnotationState] = state.Text() })
}

func (s *stage) ready(status corev1.ConditionStatus) {
	s.node(func(n *corev1.Node) { n.Status.Conditions[0].Status = status })
}

func (s *stage) ordered() string {
	s.t.Helper()
	n, err := s.api.CoreV1().Nodes().Get(context.Background(), "site", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return n.Annotations[drill.AnnotationOrder]
}

func (s *stage) order() drill.Order {
	return drill.Order{ID: "a1", For: metav1.Duration{Duration: 5 * time.Minute}, Issued: time.Now().UTC()}
}

// run runs a drill while play, called once the node has answered, moves the world.
func (s *stage) run(ctx context.Context, play func(o drill.Order)) (*drillResult, error) {
	o := s.order()
	over := make(chan struct{})
	go func() {
		defer close(over)
		time.Sleep(time.Second) // fake
		if s.ordered() == "" || s.answer == nil {
			return
		}
		s.says(s.answer(o))
		if play != nil {
			play(o)
		}
	}()
	d := &driller{w: IO{Out: s, Err: s, Now: time.Now}, api: s.api, name: "site", patience: 10 * time.Minute}
	r, err := d.run(ctx, o)
	<-over
	return r, err
}

func report(o drill.Order) *drill.Report {
	begun := time.Now().Add(-time.Hour).UTC().Truncate(time.Second) // the node's clock is another one
	return &drill.Report{Began: begun, Ended: begun.Add(o.For.Duration), End: "its deadline", Pods: 1, Containers: 1, Reads: 150}
}

// back is how a drill ends in which the node noticed nothing.
func (s *stage) back(o drill.Order) {
	s.ready(corev1.ConditionTrue)
	s.says(drill.State{ID: o.ID, Phase: drill.Back})
	time.Sleep(3 * time.Second) // fake
	s.says(drill.State{ID: o.ID, Phase: drill.Done, Report: report(o)})
}

func TestADrillIsWatchedFromBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		r, err := s.run(t.Context(), func(o drill.Order) {
			time.Sleep(50 * time.Second) // fake, as all below
			s.ready(corev1.ConditionUnknown)
			time.Sleep(o.For.Duration - 40*time.Second)
			s.back(o)
		})
		if err != nil {
			t.Fatalf("%v\n%s", err, s.said())
		}
		c := r.Cluster
		if err := r.verdict(); err != nil || c.Unready == nil || c.Ready == nil || c.Unready.Duration.Round(5*time.Second) != 50*time.Second || c.Ready.Duration.Round(5*time.Second) != 10*time.Second ||
			c.Silent.Duration < 5*time.Minute || r.Edge.Reads != 150 {
			t.Errorf("%v, the cluster was seen as %+v: expected nothing broken, not Ready after 50 s and Ready 10 s after the end", err, c)
		}
		var text, programs bytes.Buffer
		if err := show(&programs, "json", r, nil); err != nil || !strings.Contains(programs.String(), `"broke": []
}`) {
			t.Errorf("%v, expected an empty list in\n%s", err, programs.String())
		}
		if err := show(&text, "", r, r.write); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"150 of 150 reads", "ended by its deadline", "not Ready 5", "broke       nothing", "Ready is Unknown"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("the result lacks %q:\n%s", want, text.String())
			}
		}
	})
}

func TestWhatTheClusterDoesToASiteIsNamed(t *testing.T) {
	pods := func(s *stage) interface {
		Create(context.Context, *corev1.Pod, metav1.CreateOptions) (*corev1.Pod, error)
		Update(context.Context, *corev1.Pod, metav1.UpdateOptions) (*corev1.Pod, error)
		Delete(context.Context, string, metav1.DeleteOptions) error
	} {
		return s.api.CoreV1().Pods("shop")
	}
	for want, do := range map[string]func(s *stage) error{
		"pod shop/web-0 is marked for deletion": func(s *stage) error {
			p := webPod("web-0", "site")
			p.DeletionTimestamp, p.Finalizers = new(metav1.Now()), []string{"kept/by-the-test"}
			_, err := pods(s).Update(context.Background(), p, metav1.UpdateOptions{})
			return err
		},
		"pod shop/web-0 is gone from the cluster": func(s *stage) error { return pods(s).Delete(context.Background(), "web-0", metav1.DeleteOptions{}) },
		`pod shop/web-1 was made on node "stock" beside those of ReplicaSet web`: func(s *stage) error {
			p := webPod("web-1", "stock")
			p.UID, p.CreationTimestamp = "uid-web-1", metav1.NewTime(time.Now())
			_, err := pods(s).Create(context.Background(), p, metav1.CreateOptions{})
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			r, err := s.run(t.Context(), func(o drill.Order) {
				time.Sleep(time.Minute) // fake
				if err := do(s); err != nil {
					t.Errorf("%s: %v", want, err)
				}
				time.Sleep(o.For.Duration)
				s.back(o)
			})
			if err != nil {
				t.Fatalf("%s: %v", want, err)
			}
			if err := r.verdict(); len(r.Broke) != 1 || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, expected %q", err, want)
			}
		})
	}
}

// What the cluster wants more of by itself is no twin.
func TestAPodThatIsWantedIsNoTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		r, err := s.run(t.Context(), func(o drill.Order) {
			set, err := s.api.AppsV1().ReplicaSets("shop").Get(context.Background(), "web", metav1.GetOptions{})
			if err == nil {
				set.Spec.Replicas = new(int32(2))
				_, err = s.api.AppsV1().ReplicaSets("shop").Update(context.Background(), set, metav1.UpdateOptions{})
			}
			p := webPod("web-1", "stock")
			p.UID = "uid-web-1"
			if _, cerr := s.api.CoreV1().Pods("shop").Create(context.Background(), p, metav1.CreateOptions{}); err != nil || cerr != nil {
				t.Error(err, cerr)
			}
			time.Sleep(o.For.Duration) // fake
			s.back(o)
		})
		if err != nil || len(r.Broke) != 0 {
			t.Errorf("%v, %+v: expected nothing broken", err, r)
		}
	})
}

func TestWhatTheNodeSawBrokenFailsTheDrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		r, err := s.run(t.Context(), func(o drill.Order) {
			rep := report(o)
			rep.Broke, rep.MoreBroke = []string{"pod shop/web-0 is gone"}, 2
			s.says(drill.State{ID: o.ID, Phase: drill.Done, Report: rep})
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "3 things broke: pod shop/web-0 is gone") {
			t.Errorf("%v, expected 3 things", err)
		}
	})
}

func TestADrillThatDoesNotBegin(t *testing.T) {
	past := func(change func(*drill.Order)) string {
		o := drill.Order{ID: "old", For: metav1.Duration{Duration: time.Hour}, Issued: time.Now().UTC()}
		change(&o)
		return o.Text()
	}
	for name, c := range map[string]struct {
		before func(s *stage)
		want   string
	}{
		"refused": {func(s *stage) {
			s.answer = func(o drill.Order) drill.State { return drill.State{ID: o.ID, Phase: drill.Refused, Why: "no kubelet"} }
		}, "there is no drill: no kubelet"},
		"not read": {func(s *stage) {
			s.answer = func(drill.Order) drill.State { return drill.State{Phase: drill.Refused, Why: "garbage"} }
		}, "there is no drill: garbage"},
		"not heard":   {func(s *stage) { s.answer = nil }, "has not heard the order; the order was taken back"},
		"not Ready":   {func(s *stage) { s.ready(corev1.ConditionUnknown) }, "node site is not Ready: expected one that is well, found Ready Unknown"},
		"not an edge": {func(s *stage) { s.node(func(n *corev1.Node) { n.Spec.ProviderID = "aws:///i" }) }, "is not an edge's"},
		"under way": {func(s *stage) {
			s.node(func(n *corev1.Node) { n.Annotations[drill.AnnotationOrder] = past(func(*drill.Order) {}) })
			s.says(drill.State{ID: "old", Phase: drill.Agreed})
		}, "drill old of node site is under way: it is agreed"},
		"not answered": {func(s *stage) {
			s.node(func(n *corev1.Node) { n.Annotations[drill.AnnotationOrder] = past(func(*drill.Order) {}) })
		}, "has not answered the order for drill old"},
		"another order": {func(s *stage) {
			s.answer = func(drill.Order) drill.State { return drill.State{ID: "b2", Phase: drill.Agreed} }
		}, "has not heard the order"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			c.before(s)
			was := s.ordered()
			_, err := s.run(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, expected %q", name, err, c.want)
			}
			if now := s.ordered(); now != was {
				t.Errorf("%s: the order %q is left, expected %q", name, now, was)
			}
		})
	}
	for name, text := range map[string]func() string{
		"done":               func() string { return past(func(*drill.Order) {}) },
		"long ago":           func() string { return past(func(o *drill.Order) { o.Issued = time.Now().Add(-3 * time.Hour) }) },
		"of another version": func() string { return "later" },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newStage(t)
			s.node(func(n *corev1.Node) { n.Annotations[drill.AnnotationOrder] = text() })
			if name == "done" {
				s.says(drill.State{ID: "old", Phase: drill.Done, Report: &drill.Report{}})
			}
			if _, err := s.run(t.Context(), s.back); err != nil {
				t.Errorf("after an order that is %s: %v", name, err)
			}
		})
	}
}

// Who stops watching, by Ctrl-C or because the node does not come back, ends no drill and is told so.
func TestADrillGoesOnWithoutItsWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.run(ctx, func(drill.Order) { time.Sleep(time.Minute); cancel() }) // fake
		if !errors.Is(err, errInterrupted) || !strings.Contains(err.Error(), "the drill goes on") || s.ordered() == "" {
			t.Errorf("%v, the order is %q: expected an interruption that leaves the order", err, s.ordered())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		_, err := s.run(t.Context(), func(drill.Order) { s.ready(corev1.ConditionUnknown) })
		if err == nil || !strings.Contains(err.Error(), "is not back 10m0s after the cut") {
			t.Errorf("%v, expected that the node is not back", err)
		}
	})
}

func TestTheLastDrillIsShown(t *testing.T) {
	s := newStage(t)
	d := &driller{w: IO{Out: s, Err: s, Now: time.Now}, api: s.api, name: "site"}
	w := IO{Out: s, Err: s, Now: time.Now}
	if err := d.show(t.Context(), w, ""); err == nil || !strings.Contains(err.Error(), "says nothing of a drill") {
		t.Errorf("%v, expected that there was none", err)
	}
	s.says(drill.State{ID: "a1", Phase: drill.Done, Report: &drill.Report{End: "its deadline", Broke: []string{"pod shop/web-0 is gone"}, MoreBroke: 1}})
	if err := d.show(t.Context(), w, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"drill       a1", "phase       done", "BROKE       pod shop/web-0 is gone", "one thing more"} {
		if !strings.Contains(s.said(), want) {
			t.Errorf("it lacks %q:\n%s", want, s.said())
		}
	}
}
