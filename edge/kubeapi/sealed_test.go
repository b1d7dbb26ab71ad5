package kubeapi

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// A Secret that cannot be opened exists: who asks for it hears 503 until the cloud has sent it again. At 404 the kubelet
// would take an optional one out of a pod that runs.
func TestASecretWhoseKeyIsLostIsNotAbsent(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	secrets := e.client.CoreV1().Secrets("shop")
	e.store.fromCloud(t, object.Secrets, &corev1.Secret{ObjectMeta: e.meta("shop", "good", "1")})
	rec := e.store.fromCloud(t, object.Secrets, &corev1.Secret{ObjectMeta: e.meta("shop", "cred", "2")})
	sealed := *rec
	sealed.Body, sealed.Sealed = nil, true
	if _, err := e.store.Apply(ctx, object.Change{Expect: rec.LocalRV, Record: &sealed}); err != nil {
		t.Fatal(err)
	}
	if _, err := secrets.Get(ctx, "cred", metav1.GetOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("get: %v, expected 503", err)
	}
	byName := metav1.ListOptions{FieldSelector: "metadata.name=cred"} // as the kubelet asks
	if list, err := secrets.List(ctx, byName); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("list by its name: %v %v, expected 503", list, err)
	}
	w, err := secrets.Watch(ctx, byName)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-w.ResultChan():
		if !apierrors.IsServiceUnavailable(apierrors.FromObject(got.Object)) {
			t.Errorf("a watch by its name begins with %s %v, expected 503", got.Type, got.Object)
		}
	case <-time.After(patient):
		t.Error("a watch by its name says nothing, expected 503")
	}
	w.Stop()
	if list, err := secrets.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 1 || list.Items[0].Name != "good" {
		t.Errorf("list: %v %v, expected the other one", list, err)
	}
	e.store.fromCloud(t, object.Secrets, &corev1.Secret{ObjectMeta: e.meta("shop", "cred", "2")})
	if list, err := secrets.List(ctx, byName); err != nil || len(list.Items) != 1 {
		t.Errorf("when it has come again: %v %v", list, err)
	}
}
