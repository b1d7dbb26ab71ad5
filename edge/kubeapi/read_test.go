package kubeapi

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/tether-edge/tether/common/object"
)

func TestReadsShowTheLocalVersionAndTheCloudsUID(t *testing.T) {
	e := newEnv(t)
	rec := e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	for _, c := range []string{"protobuf", "json"} {
		client := e.client
		if c == "json" {
			client = e.json
		}
		got, err := client.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if string(got.UID) != "uid-1" || got.ResourceVersion != object.FormatRV(rec.LocalRV) {
			t.Errorf("%s: uid %s, version %s, expected uid-1 and %d", c, got.UID, got.ResourceVersion, rec.LocalRV)
		}
		list, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		if len(list.Items) != 1 || list.ResourceVersion != object.FormatRV(rec.LocalRV) {
			t.Errorf("%s: %d items at version %s, expected 1 at %d", c, len(list.Items), list.ResourceVersion, rec.LocalRV)
		}
	}
}

// A link that is up and says nothing must not matter to a read (I1): the cloud is not asked, found or not.
func TestAReadNeverAsksTheCloud(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Nodes, e.node())
	e.cloud.set(func(ctx context.Context, _ object.Call) (object.Reply, error) {
		<-ctx.Done() // silent
		return object.Reply{}, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	for _, k := range object.Synced() {
		of := func() *rest.Request {
			version := k.GVR().GroupVersion()
			r := e.json.CoreV1().RESTClient().Get().AbsPath("/apis", version.Group, version.Version)
			if version.Group == "" {
				r = e.json.CoreV1().RESTClient().Get().AbsPath("/api", version.Version)
			}
			if k.Namespaced {
				r = r.Suffix("namespaces", "shop")
			}
			return r.Suffix(k.Resource)
		}
		if err := of().Do(ctx).Error(); err != nil {
			t.Errorf("list %s: %v", k.ID(), err)
		}
		if err := of().Suffix("absent").Do(ctx).Error(); !apierrors.IsNotFound(err) {
			t.Errorf("get of an absent object of %s: %v, expected 404", k.ID(), err)
		}
	}
	e.cloud.mu.Lock()
	defer e.cloud.mu.Unlock()
	if len(e.cloud.calls) > 0 {
		t.Errorf("reads asked the cloud: %+v", e.cloud.calls)
	}
}

func TestNothingIsReadBeforeTheFirstSync(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("there", "1"))
	for _, k := range object.Synced() {
		e.store.setSynced(k.ID(), false)
	}
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: %v, expected 503", what, err)
		}
	}
	_, err := e.client.CoreV1().Pods("shop").Get(ctx, "web", metav1.GetOptions{})
	check("get a pod that is there", err)
	_, err = e.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	check("list pods", err)
	_, err = e.client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{})
	check("watch pods", err)
	_, err = e.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	check("get the node", err)
	_, err = e.client.StorageV1().CSINodes().Get(ctx, node, metav1.GetOptions{})
	check("get the CSINode", err)
	_, err = e.client.CoreV1().ConfigMaps("shop").Get(ctx, "absent", metav1.GetOptions{})
	check("get a ConfigMap that is not there", err)
	_, err = e.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	check("list services", err)
	if _, err = e.client.CoreV1().ConfigMaps("shop").Get(ctx, "there", metav1.GetOptions{}); err != nil {
		t.Errorf("get a ConfigMap that is there: %v", err)
	}
	e.store.setSynced(object.ConfigMaps, true)
	if _, err = e.client.CoreV1().ConfigMaps("shop").Get(ctx, "absent", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get an absent ConfigMap once they are synced: %v, expected 404", err)
	}
}

func TestSelectorsChooseAndWatchersSeeTransitions(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	w, err := e.client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{LabelSelector: "tier=front"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	label := func(v string) {
		p := e.pod("web", "uid-1")
		p.Labels["tier"] = v
		e.store.fromCloud(t, object.Pods, p)
	}
	label("front")
	expect(t, w, watch.Added, "web", "uid-1")
	label("front")
	expect(t, w, watch.Modified, "web", "uid-1")
	label("back")
	gone := expect(t, w, watch.Deleted, "web", "uid-1")
	if gone.GetLabels()["tier"] != "front" {
		t.Errorf("the DELETED object has tier %q, expected the last one that was selected", gone.GetLabels()["tier"])
	}
	label("front")
	expect(t, w, watch.Added, "web", "uid-1")
	e.store.removed(t, e.key(object.Pods, "shop", "web"))
	expect(t, w, watch.Deleted, "web", "uid-1")
}

func TestARecreatedPodIsDeletedAndAdded(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-1"))
	w, err := e.client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect(t, w, watch.Added, "web", "uid-1")
	e.store.fromCloud(t, object.Pods, e.pod("web", "uid-2"))
	expect(t, w, watch.Deleted, "web", "uid-1")
	expect(t, w, watch.Added, "web", "uid-2")
}

func TestWatchListEndsItsInitialEventsWithABookmark(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "1"))
	rec := e.store.fromCloud(t, object.ConfigMaps, e.configMap("b", "1"))
	yes := true
	w, err := e.client.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect(t, w, watch.Added, "a", "")
	expect(t, w, watch.Added, "b", "")
	mark := next(t, w)
	o, ok := mark.Object.(*corev1.ConfigMap)
	if mark.Type != watch.Bookmark || !ok || o.Annotations[metav1.InitialEventsAnnotationKey] != "true" ||
		o.ResourceVersion != object.FormatRV(rec.LocalRV) {
		t.Fatalf("got %+v, expected a bookmark at %d that ends the initial events", mark, rec.LocalRV)
	}
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("c", "1"))
	expect(t, w, watch.Added, "c", "")
}

func TestBookmarksCarryVersionsThatNoEventDoes(t *testing.T) {
	e := newEnv(t, func(c *Config, _ *Deps) { c.BookmarkPeriod = 10 * time.Millisecond })
	list, err := e.client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := e.client.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{
		ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, FieldSelector: "metadata.name=mine",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	rec := e.store.fromCloud(t, object.ConfigMaps, e.configMap("others", "1"))
	for {
		ev := next(t, w)
		if ev.Type != watch.Bookmark {
			t.Fatalf("got %s, expected a bookmark", ev.Type)
		}
		if ev.Object.(*corev1.ConfigMap).ResourceVersion == object.FormatRV(rec.LocalRV) {
			return
		}
	}
}

func TestAnExactVersionContinuesWithoutGapsAndAnOldOneIsGone(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	first := e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "1"))
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "2"))
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("b", "1"))
	w, err := e.client.CoreV1().ConfigMaps("").Watch(ctx, metav1.ListOptions{ResourceVersion: object.FormatRV(first.LocalRV)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if o := expect(t, w, watch.Modified, "a", "").(*corev1.ConfigMap); o.Data["k"] != "2" {
		t.Errorf("got value %q, expected 2", o.Data["k"])
	}
	expect(t, w, watch.Added, "b", "")
	for _, rv := range []string{"1", "99999999"} {
		old, err := e.client.CoreV1().ConfigMaps("").Watch(ctx, metav1.ListOptions{ResourceVersion: rv})
		if err != nil {
			t.Fatal(err)
		}
		ev := next(t, old)
		if err := apierrors.FromObject(ev.Object); ev.Type != watch.Error || !apierrors.IsResourceExpired(err) {
			t.Errorf("watch from %s: %s %v, expected an error event 410 Expired", rv, ev.Type, err)
		}
		old.Stop()
	}
	_, err = e.client.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{
		ResourceVersion: "101", ResourceVersionMatch: metav1.ResourceVersionMatchExact,
	})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("list at an exact old version: %v, expected 410", err)
	}
	// Not with the client: it waits a second and tries again, ten times.
	code, body := e.raw(http.MethodGet, "/api/v1/configmaps?resourceVersion=99999999", "", "")
	if code != http.StatusGatewayTimeout || !strings.Contains(body, string(metav1.CauseTypeResourceVersionTooLarge)) {
		t.Errorf("list at a future version: %d %s, expected 504 with the cause ResourceVersionTooLarge", code, body)
	}
}

func TestAnInformerFollowsTheStore(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "1"))
	factory := informers.NewSharedInformerFactory(e.client, 0)
	inf := factory.Core().V1().ConfigMaps()
	events := make(chan string, 16)
	name := func(o any) string {
		if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = d.Obj
		}
		return o.(*corev1.ConfigMap).Name
	}
	if _, err := inf.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { events <- "add " + name(o) },
		UpdateFunc: func(_, o any) { events <- "update " + name(o) },
		DeleteFunc: func(o any) { events <- "delete " + name(o) },
	}); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	await := func(want string) {
		t.Helper()
		select {
		case got := <-events:
			if got != want {
				t.Fatalf("got %q, expected %q", got, want)
			}
		case <-time.After(patient):
			t.Fatalf("%q did not come", want)
		}
	}
	await("add a")
	e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "2"))
	await("update a")
	e.store.removed(t, e.key(object.ConfigMaps, "shop", "a"))
	await("delete a")
}

func TestViewChangesWhatIsServedAndNeverWhatIsStored(t *testing.T) {
	e := newEnv(t, func(_ *Config, d *Deps) {
		d.View = func(o object.Object) object.Object {
			if cm, ok := o.(*corev1.ConfigMap); ok {
				cm.Data = map[string]string{"k": "seen"}
			}
			return o
		}
	})
	rec := e.store.fromCloud(t, object.ConfigMaps, e.configMap("a", "stored"))
	got, err := e.client.CoreV1().ConfigMaps("shop").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || got.Data["k"] != "seen" {
		t.Fatalf("get: %v %v, expected the view", got, err)
	}
	list, err := e.client.CoreV1().ConfigMaps("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || list.Items[0].Data["k"] != "seen" {
		t.Fatalf("list: %v %v, expected the view", list, err)
	}
	w, err := e.client.CoreV1().ConfigMaps("shop").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if o := expect(t, w, watch.Added, "a", "").(*corev1.ConfigMap); o.Data["k"] != "seen" {
		t.Errorf("watch: %v, expected the view", o.Data)
	}
	k, _ := object.Lookup(object.ConfigMaps)
	o, err := object.Decode(k, rec.Body)
	if err != nil || o.(*corev1.ConfigMap).Data["k"] != "stored" {
		t.Errorf("stored: %v %v, expected it unchanged", o, err)
	}
}

func TestUnknownKindsAreNotFound(t *testing.T) {
	e := newEnv(t)
	_, err := e.client.AppsV1().Deployments("shop").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("list deployments: %v, expected 404", err)
	}
}

func TestDiscoveryNamesTheKindsThatAreServed(t *testing.T) {
	e := newEnv(t)
	_, lists, err := e.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			found[l.GroupVersion+" "+r.Name] = r.Verbs
		}
	}
	for _, k := range object.Synced() {
		if found[k.GroupVersion().String()+" "+k.Resource] == nil {
			t.Errorf("discovery does not name %s", k.ID())
		}
	}
	for _, name := range []string{"v1 pods/status", "v1 nodes/status", "v1 serviceaccounts/token", "v1 events", "coordination.k8s.io/v1 leases"} {
		if found[name] == nil {
			t.Errorf("discovery does not name %s", name)
		}
	}
	v, err := e.client.Discovery().ServerVersion()
	if err != nil || v.GitVersion != "v1.36.3" || v.Minor != "36" {
		t.Errorf("version: %+v %v", v, err)
	}
}
