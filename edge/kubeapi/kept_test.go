package kubeapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/common/object"
)

// people is a client as those who come over loopback have it.
func (e *env) people() kubernetes.Interface {
	e.t.Helper()
	c, err := kubernetes.NewForConfig(&rest.Config{Host: "http://edge", QPS: -1,
		Transport: &transport{handler: e.local, caller: &user.DefaultInfo{Name: "somebody", Groups: []string{user.SystemPrivilegedGroup}}}})
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

// change stores a pod's record changed.
func (e *env) change(name string, f func(*object.Record)) {
	e.t.Helper()
	rec, _, err := e.store.Get(e.t.Context(), e.key(object.Pods, "shop", name))
	if err != nil {
		e.t.Fatal(err)
	}
	next := *rec
	f(&next)
	if _, err := e.store.Apply(e.t.Context(), object.Change{Expect: rec.LocalRV, Record: &next}); err != nil {
		e.t.Fatal(err)
	}
}

// made stores a pod that was made here, which stands in for another.
func (e *env) made(name, uid string) *corev1.Pod {
	e.t.Helper()
	p := e.pod(name, uid)
	p.Annotations = map[string]string{object.AnnotationStandInFor: "web", object.AnnotationStandInForUID: "uid-1"}
	kind, _ := object.Lookup(object.Pods)
	body, err := object.Encode(kind, p)
	if err != nil {
		e.t.Fatal(err)
	}
	if _, err := e.store.Apply(e.t.Context(), object.Change{Record: &object.Record{
		Key: e.key(object.Pods, "shop", name), Version: object.Version{UID: uid}, Origin: object.FromEdge, Body: body}}); err != nil {
		e.t.Fatal(err)
	}
	return p
}

// What is withheld is not there for the kubelet, goes when it is withheld, comes when it is not any more; people see it throughout.
func TestTheKubeletIsNotShownWhatIsWithheld(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	e.store.fromCloud(t, object.Pods, e.pod("other", "uid-2"))
	e.change("web", func(r *object.Record) { r.Withheld = true })
	pods := e.client.CoreV1().Pods("shop")
	if _, err := pods.Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get: %v, expected 404", err)
	}
	list, err := pods.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "other" {
		t.Errorf("list: %v, %v", list, err)
	}
	w, err := pods.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e.change("web", func(r *object.Record) { r.Withheld = false })
	expect(t, w, watch.Added, "web", "uid-1")
	e.change("web", func(r *object.Record) { r.Withheld = true })
	expect(t, w, watch.Deleted, "web", "uid-1")
	initial, err := pods.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer initial.Stop()
	expect(t, initial, watch.Added, "other", "uid-2")
	// Gone while it was withheld, it is no news.
	e.store.removed(t, e.key(object.Pods, "shop", "web"))
	e.store.removed(t, e.key(object.Pods, "shop", "other"))
	expect(t, w, watch.Deleted, "other", "uid-2")
}

func TestPeopleAreToldHowAPodIsKept(t *testing.T) {
	e := newEnv(t)
	for _, name := range []string{"plain", "lost", "away"} {
		e.store.fromCloud(t, object.Pods, e.pod(name, name+"-uid"))
	}
	e.change("lost", func(r *object.Record) { r.Held = true })
	e.change("away", func(r *object.Record) { r.Withheld = true })
	e.made("copy", "copy-uid")
	want := map[string]string{"plain": "", "lost": object.KeptHeld, "away": object.KeptWithheld, "copy": object.KeptStandIn}
	list, err := e.people().CoreV1().Pods("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != len(want) {
		t.Fatalf("%d pods, %v, expected %d", len(list.Items), err, len(want))
	}
	for _, p := range list.Items {
		if p.Annotations[object.AnnotationKept] != want[p.Name] {
			t.Errorf("%s in the list: %q", p.Name, p.Annotations[object.AnnotationKept])
		}
		one, err := e.people().CoreV1().Pods("shop").Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil || one.Annotations[object.AnnotationKept] != want[p.Name] {
			t.Errorf("%s: %v, %v", p.Name, one.Annotations, err)
		}
		cells := strings.Join([]string{podCells(&p, e.clock.Now())[2].(string)}, "")
		if said := map[string]string{"plain": "Pending", "lost": "Pending (held)", "away": "Withheld", "copy": "Pending (stand-in)"}[p.Name]; cells != said {
			t.Errorf("%s is said to be %q, expected %q", p.Name, cells, said)
		}
	}
	own, err := e.client.CoreV1().Pods("shop").Get(t.Context(), "lost", metav1.GetOptions{})
	if err != nil || own.Annotations[object.AnnotationKept] != "" {
		t.Errorf("to the kubelet: %v, %v", own.Annotations, err)
	}
}

// The site's own pods end at the gateway as the cluster's end in the cluster: marked, ended by the kubelet in their time, and then gone,
// without a word to the cloud.
func TestAPodOfTheSitesOwnEndsGracefully(t *testing.T) {
	for name, kept := range map[string]func(*env){
		"held": func(e *env) {
			e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
			e.change("web", func(r *object.Record) { r.Held = true })
		},
		"stand-in": func(e *env) { e.made("web", "uid-1") },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			kept(e)
			w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			expect(t, w, watch.Added, "web", "uid-1")
			if err := e.people().CoreV1().Pods("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			marked := expect(t, w, watch.Modified, "web", "uid-1").(*corev1.Pod)
			if marked.DeletionTimestamp == nil || *marked.DeletionGracePeriodSeconds != 30 {
				t.Fatalf("marked with %v, %v", marked.DeletionTimestamp, marked.DeletionGracePeriodSeconds)
			}
			// Again it is no news, and what the kubelet reports meanwhile does not bring it back to life.
			if err := e.people().CoreV1().Pods("shop").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Errorf("again: %v", err)
			}
			if _, err := e.patchPodStatus("web", `{"status":{"phase":"Running"}}`); err != nil {
				t.Fatal(err)
			}
			if p := expect(t, w, watch.Modified, "web", "uid-1").(*corev1.Pod); p.DeletionTimestamp == nil || p.Status.Phase != corev1.PodRunning {
				t.Errorf("after a report: %v, %v", p.DeletionTimestamp, p.Status.Phase)
			}
			before := len(e.store.sent())
			if err := e.client.CoreV1().Pods("shop").Delete(t.Context(), "web", gone("uid-1")); err != nil {
				t.Fatal(err)
			}
			expect(t, w, watch.Deleted, "web", "uid-1")
			if sent := e.store.sent(); len(sent) != before {
				t.Errorf("%d messages for the cloud", len(sent)-before)
			}
			if rec, _, _ := e.store.Get(t.Context(), e.key(object.Pods, "shop", "web")); rec != nil {
				t.Errorf("left: %+v", rec)
			}
		})
	}
}

// A stand-in asks as the pod that it stands for, which the cloud knows, so that what was cached for that one serves too.
func TestAStandInHasTheTokenOfItsOriginal(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	e.cloud.set(e.granting(e.clock.Now(), "first"))
	if _, err := e.askToken("uid-1"); err != nil {
		t.Fatal(err)
	}
	e.made("copy", "copy-uid")
	ask := func() (*authenticationv1.TokenRequest, error) {
		seconds := int64(3607)
		return e.client.CoreV1().ServiceAccounts("shop").CreateToken(context.Background(), "default", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds,
				BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "copy", UID: "copy-uid"}}}, metav1.CreateOptions{})
	}
	var bound []string
	answer := e.granting(e.clock.Now(), "second")
	e.cloud.set(func(ctx context.Context, c object.Call) (object.Reply, error) {
		var tr authenticationv1.TokenRequest
		if err := json.Unmarshal(c.Body, &tr); err != nil {
			return object.Reply{}, err
		}
		bound = append(bound, tr.Spec.BoundObjectRef.Name+" "+string(tr.Spec.BoundObjectRef.UID))
		return answer(ctx, c)
	})
	if got, err := ask(); err != nil || got.Status.Token != jwt(e.clock.Now(), "second") || len(bound) != 1 || bound[0] != "web uid-1" {
		t.Errorf("online: %v for %v, %v", got, bound, err)
	}
	if len(e.store.tokens) != 1 {
		t.Errorf("%d tokens are cached, expected the one", len(e.store.tokens))
	}
	e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
		return object.Reply{Code: http.StatusServiceUnavailable}, object.ErrOffline
	})
	if got, err := ask(); err != nil || got.Status.Token != jwt(e.clock.Now(), "second") {
		t.Errorf("offline: %v, %v", got, err)
	}
	// Only what was made here can say so: another pod's annotation is none of the cloud's business.
	p := e.pod("liar", "liar-uid")
	p.Annotations = map[string]string{object.AnnotationStandInFor: "web", object.AnnotationStandInForUID: "uid-1"}
	e.store.fromCloud(t, object.Pods, p)
	seconds := int64(3607)
	if _, err := e.client.CoreV1().ServiceAccounts("shop").CreateToken(context.Background(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "liar", UID: types.UID("liar-uid")}}}, metav1.CreateOptions{}); err == nil {
		t.Error("a pod of the cloud's was given the token of another")
	}
}
