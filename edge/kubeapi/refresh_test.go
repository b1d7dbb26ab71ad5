package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tether-edge/tether/common/object"
)

// asked lets the cloud grant tokens until exp and notes for which pods, in order.
func (e *env) asked(exp time.Time, mark string) *[]string {
	var pods []string
	grant := e.granting(exp, mark)
	e.cloud.set(func(ctx context.Context, c object.Call) (object.Reply, error) {
		tr := authenticationv1.TokenRequest{}
		if err := json.Unmarshal(c.Body, &tr); err != nil {
			return object.Reply{}, err
		}
		pods = append(pods, string(tr.Spec.BoundObjectRef.UID))
		return grant(ctx, c)
	})
	return &pods
}

func (e *env) offlineToken(pod string) string {
	e.t.Helper()
	e.cloud.set(nil)
	got, err := e.askToken(pod)
	if err != nil {
		e.t.Fatal(err)
	}
	return got.Status.Token
}

// When the link comes up tokens are refreshed before anybody asks, what ends first at first: the link may be gone again
// when the kubelet asks.
func TestTokensAreRefreshedWhenTheLinkComesUp(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	for i, pod := range []string{"second", "first"} {
		e.asked(e.clock.Now().Add(time.Duration(10-i)*time.Hour), "old")
		if _, err := e.askToken(pod); err != nil {
			t.Fatal(err)
		}
	}
	e.clock.advance(20 * time.Minute)
	pods := e.asked(e.clock.Now().Add(20*time.Hour), "early")
	e.RefreshTokens(t.Context())
	if len(*pods) != 0 {
		t.Errorf("asked for %v, expected nothing within the first half of their lives", *pods)
	}
	e.clock.advance(15 * time.Minute)
	exp := e.clock.Now().Add(20 * time.Hour)
	pods = e.asked(exp, "new")
	e.RefreshTokens(t.Context())
	if !slices.Equal(*pods, []string{"first", "second"}) {
		t.Errorf("asked for %v, expected the one that ends first and then the other", *pods)
	}
	for _, pod := range []string{"first", "second"} {
		if got := e.offlineToken(pod); got != jwt(exp, "new") {
			t.Errorf("offline again, %s gets %s, expected the new one", pod, got)
		}
	}
	pods = e.asked(exp, "newer")
	e.RefreshTokens(t.Context())
	if len(*pods) != 0 {
		t.Errorf("asked for %v, expected nothing so soon after", *pods)
	}
}

func TestTokensThatCannotBeRefreshedStay(t *testing.T) {
	e := newEnv(t)
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-1"))
	old := e.clock.Now().Add(time.Hour).Truncate(time.Second)
	e.asked(old, "old")
	for _, pod := range []string{"a", "b"} {
		if _, err := e.askToken(pod); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.store.SaveToken(t.Context(), "none of ours", "", []byte("x"), time.Time{}); err != nil {
		t.Fatal(err)
	}
	e.clock.advance(24 * time.Hour)
	asked := 0
	for code, want := range map[int]int{
		http.StatusForbidden: 2, // a refusal of one keeps no other from being asked for
		// An API server that has too much to do is not asked for each.
		http.StatusTooManyRequests: 1, http.StatusInternalServerError: 1, http.StatusServiceUnavailable: 1, http.StatusGatewayTimeout: 1,
	} {
		asked = 0
		status := apierrors.NewGenericServerResponse(code, "create", corev1.Resource("serviceaccounts"), "default", "", 0, false).Status()
		status.Kind, status.APIVersion = "Status", "v1"
		body, err := json.Marshal(status)
		if err != nil {
			t.Fatal(err)
		}
		e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
			asked++
			return object.Reply{Code: code, ContentType: "application/json", Body: body}, nil
		})
		e.RefreshTokens(t.Context())
		if asked != want {
			t.Errorf("after code %d asked %d times for two tokens, expected %d", code, asked, want)
		}
	}
	asked = 0
	e.cloud.set(func(context.Context, object.Call) (object.Reply, error) {
		asked++
		return object.Reply{}, errors.New("the session ended")
	})
	e.RefreshTokens(t.Context())
	if asked != 1 {
		t.Errorf("asked %d times of a cloud that does not answer, expected one", asked)
	}
	if got := e.offlineToken("a"); got != jwt(old, "old") {
		t.Errorf("the cached token is %s, expected the former one", got)
	}
	// Of an account that was made anew there is nothing to refresh.
	e.store.fromCloud(t, object.ServiceAccounts, e.account("sa-2"))
	pods := e.asked(old, "new")
	e.RefreshTokens(t.Context())
	if len(*pods) != 0 {
		t.Errorf("asked for %v of an account that is gone", *pods)
	}
}
