package kubeapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

func jwt(exp time.Time, mark string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none"}`)) + "." + enc(fmt.Appendf(nil, `{"exp":%d,"mark":%q}`, exp.Unix(), mark)) + ".sig"
}

func (e *env) granting(exp time.Time, mark string) func(context.Context, object.Call) (object.Reply, error) {
	return func(_ context.Context, c object.Call) (object.Reply, error) {
		tr := authenticationv1.TokenRequest{}
		if err := json.Unmarshal(c.Body, &tr); err != nil {
			return object.Reply{}, err
		}
		tr.Status = authenticationv1.TokenRequestStatus{
			Token: jwt(exp, mark), ExpirationTimestamp: metav1.NewTime(e.clock.Now().Add(time.Hour)),
		}
		b, err := json.Marshal(tr)
		return object.Reply{Code: http.StatusCreated, ContentType: "application/json", Body: b}, err
	}
}

func (e *env) account(uid string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: e.meta("shop", "default", uid)}
}

func (e *env) askToken(podUID string, audiences ...string) (*authenticationv1.TokenRequest, error) {
	seconds := int64(3607)
	return e.client.CoreV1().ServiceAccounts("shop").CreateToken(context.Background(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: audiences, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "web", UID: types.UID(podUID)},
		},
	}, metav1.CreateOptions{})
}

func TestATokenComesFromTheCloudAndOfflineFromTheCacheEvenExpired(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	if _, err := e.askToken("uid-1"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("offline without a cache: %v, expected 503", err)
	}
	exp := e.clock.Now().Add(365 * 24 * time.Hour).Truncate(time.Second)
	e.cloud.set(e.granting(exp, "first"))
	got, err := e.askToken("uid-1")
	if err != nil || got.Status.Token != jwt(exp, "first") {
		t.Fatalf("online: %+v %v", got, err)
	}
	if len(e.store.tokens) != 1 {
		t.Fatalf("%d tokens are cached, expected 1", len(e.store.tokens))
	}
	for _, saved := range e.store.tokens {
		if !saved.expires.Equal(exp) || saved.podUID != "uid-1" {
			t.Errorf("cached for pod %s until %v, expected uid-1 and the exp inside the token, %v", saved.podUID, saved.expires, exp)
		}
	}
	e.cloud.set(e.granting(exp, "second"))
	if got, err = e.askToken("uid-1"); err != nil || got.Status.Token != jwt(exp, "second") {
		t.Errorf("online again: %+v %v, expected a new token", got, err)
	}
	e.cloud.set(nil)
	e.clock.advance(2 * 365 * 24 * time.Hour)
	if got, err = e.askToken("uid-1"); err != nil || got.Status.Token != jwt(exp, "second") {
		t.Errorf("offline: %+v %v, expected the cached token", got, err)
	}
	if _, err = e.askToken("uid-1", "other-audience"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("offline for another audience: %v, expected 503", err)
	}
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-2"))
	if _, err = e.askToken("uid-1"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("offline for a recreated service account: %v, expected 503", err)
	}
}

func TestATokenThatTheCloudRefusesIsRefused(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	e.cloud.set(e.granting(e.clock.Now().Add(time.Hour), "good"))
	if _, err := e.askToken("uid-1"); err != nil {
		t.Fatal(err)
	}
	status := apierrors.NewNotFound(corev1.Resource("pods"), "web").Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	b, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
		return object.Reply{Code: http.StatusNotFound, ContentType: "application/json", Body: b}, nil
	})
	if got, err := e.askToken("uid-1"); !apierrors.IsNotFound(err) {
		t.Errorf("got %v %v, expected the cloud's 404 and not the cache", got, err)
	}
}

func TestASilentCloudCostsABoundedWait(t *testing.T) {
	e := newEnv(t, func(c *Config, _ *Deps) { c.CallTimeout = 20 * time.Millisecond })
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	exp := e.clock.Now().Add(time.Hour)
	e.cloud.set(e.granting(exp, "first"))
	if _, err := e.askToken("uid-1"); err != nil {
		t.Fatal(err)
	}
	e.cloud.set(func(ctx context.Context, _ object.Call) (object.Reply, error) {
		<-ctx.Done()
		return object.Reply{}, ctx.Err()
	})
	got, err := e.askToken("uid-1")
	if err != nil || got.Status.Token != jwt(exp, "first") {
		t.Errorf("got %v %v, expected the cached token", got, err)
	}
}
