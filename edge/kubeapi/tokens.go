package kubeapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/tether-edge/tether/common/object"
)

// tokens is serviceaccounts/token: the cloud signs, the edge remembers. While the cloud does not answer, the last
// answer to the same request for the same pod serves, even expired: without any token the pod could not start at all,
// and what it talks to on the site may well accept it.
type tokens struct {
	accounts *resource
	s        *Server
}

var _ rest.NamedCreater = &tokens{}

// waitWithCache is how long to wait for the cloud where a cached answer is at hand.
const waitWithCache = 3 * time.Second

func (t *tokens) New() runtime.Object { return &authenticationv1.TokenRequest{} }

func (t *tokens) Destroy() {}

func (t *tokens) Create(ctx context.Context, name string, o runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req := o.(*authenticationv1.TokenRequest)
	rec, err := t.accounts.lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	ns := request.NamespaceValue(ctx)
	if err := t.standIn(ctx, ns, req); err != nil {
		return nil, err
	}
	podUID := ""
	if ref := req.Spec.BoundObjectRef; ref != nil && ref.Kind == "Pod" {
		podUID = string(ref.UID)
	}
	spec, err := json.Marshal(req.Spec)
	if err != nil {
		return nil, internal(ctx, "encode the request", err)
	}
	key := object.TokenKey(ns, name, rec.Version.UID, podUID, spec)
	cached, expires, known, err := t.s.deps.Store.LoadToken(ctx, key)
	if err != nil {
		// A damaged cache entry must not keep a pod from a fresh token.
		t.s.deps.Log.Warn("cannot read a cached token", "serviceAccount", ns+"/"+name, "err", err)
		known = false
	}
	reply, err := t.ask(ctx, ns, name, req, known)
	if err != nil {
		if !known {
			return nil, unavailable("no token for service account %s/%s: %v, and none is cached", ns, name, err)
		}
		t.s.deps.Log.Info("token served from the cache", "serviceAccount", ns+"/"+name, "expires", expires)
		return t.s.codecs.decode(cached)
	}
	answer, err := t.s.readReply(ctx, reply)
	if err != nil {
		return nil, err
	}
	return t.keep(ctx, key, podUID, answer)
}

// standIn has a stand-in use the token of the pod that it stands for: the cluster signs none for a pod that it does not know.
func (t *tokens) standIn(ctx context.Context, ns string, req *authenticationv1.TokenRequest) error {
	ref := req.Spec.BoundObjectRef
	if ref == nil || ref.Kind != "Pod" {
		return nil
	}
	rec, ok, err := t.s.deps.Store.Get(ctx, object.Key{Kind: object.Pods, Namespace: ns, Name: ref.Name})
	if err != nil {
		return internal(ctx, "read the store", err)
	}
	if !ok || rec.Origin != object.FromEdge || rec.Version.UID != string(ref.UID) {
		return nil
	}
	kind, _ := object.Lookup(object.Pods)
	pod, err := object.Decode(kind, rec.Body)
	if err != nil {
		return internal(ctx, "read the store", err)
	}
	if name := pod.GetAnnotations()[object.AnnotationStandInFor]; name != "" {
		original := *ref
		original.Name, original.UID = name, types.UID(pod.GetAnnotations()[object.AnnotationStandInForUID])
		req.Spec.BoundObjectRef = &original
	}
	return nil
}

func (t *tokens) ask(ctx context.Context, ns, name string, req *authenticationv1.TokenRequest, known bool) (object.Reply, error) {
	body, err := t.s.codecs.encodeJSON(authenticationv1.SchemeGroupVersion, req)
	if err != nil {
		return object.Reply{}, fmt.Errorf("encode the request: %w", err)
	}
	if known {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, waitWithCache)
		defer cancel()
	}
	return t.s.call(ctx, object.Call{
		Verb: "create", Key: object.Key{Kind: object.ServiceAccounts, Namespace: ns, Name: name},
		Subresource: "token", ContentType: runtime.ContentTypeJSON, Body: body,
	})
}

// keep caches an answer. A cache that cannot be written costs the token's life offline, not the token.
func (t *tokens) keep(ctx context.Context, key, podUID string, answer runtime.Object) (runtime.Object, error) {
	granted, ok := answer.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, internal(ctx, "read the cloud's answer", fmt.Errorf("it is a %T, expected a TokenRequest", answer))
	}
	expires, err := tokenExpiry(granted.Status.Token)
	if err != nil {
		expires = granted.Status.ExpirationTimestamp.Time
	}
	body, err := t.s.codecs.encodeJSON(authenticationv1.SchemeGroupVersion, granted)
	if err == nil {
		err = t.s.deps.Store.SaveToken(ctx, key, podUID, body, expires)
	}
	if err != nil {
		t.s.deps.Log.Warn("cannot cache a token", "err", err)
	}
	return granted, nil
}

// tokenExpiry reads the exp claim: API servers sign tokens of 3607 s for a year by default, and only exp says so
// (status.expirationTimestamp tells the kubelet when to ask again).
func tokenExpiry(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, fmt.Errorf("token has %d parts, expected the 3 of a JWT", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, fmt.Errorf("token payload: %w", err)
	}
	var claims struct {
		Expires *float64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return time.Time{}, fmt.Errorf("token payload: %w", err)
	}
	if claims.Expires == nil {
		return time.Time{}, fmt.Errorf("token has no exp claim")
	}
	return time.Unix(int64(*claims.Expires), 0), nil
}

// GroupVersionKind tells discovery that the subresource is of another group.
func (t *tokens) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}
