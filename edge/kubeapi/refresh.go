package kubeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/tether-edge/tether/common/object"
)

// RefreshTokens asks the cloud anew for each cached token that is past the half of its life, what ends first at first,
// and returns when all are answered or the cloud does not answer. A link that comes up may be down again before the kubelet
// asks, which it does when it next looks at a pod, within a minute or two.
func (s *Server) RefreshTokens(ctx context.Context) {
	keys, err := s.deps.Store.TokenKeys(ctx)
	if err != nil && ctx.Err() == nil {
		s.deps.Log.Warn("cannot list the cached tokens", "err", err)
	}
	t := &tokens{s: s}
	fresh := 0
	for _, key := range keys {
		done, err := t.refresh(ctx, key)
		if done {
			fresh++
		}
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			s.deps.Log.Info("a cached token is not refreshed", "err", err)
		}
		if errors.Is(err, errNoAnswer) {
			break // the link is down again, or the API server is
		}
	}
	if fresh > 0 {
		s.metrics.refreshed.Add(float64(fresh))
		s.deps.Log.Info("cached tokens refreshed", "count", fresh)
	}
}

// errNoAnswer: the cloud said neither yes nor no.
var errNoAnswer = errors.New("no answer")

// refresh asks for the token of that key if it is due. What the cloud refuses stays as it is: the kubelet hears that when
// it asks itself.
func (t *tokens) refresh(ctx context.Context, key string) (done bool, err error) {
	ns, name, accountUID, podUID, request, ok := object.SplitTokenKey(key)
	if !ok {
		return false, errors.New("its key is none of a token's")
	}
	body, _, ok, err := t.s.deps.Store.LoadToken(ctx, key)
	if err != nil || !ok {
		return false, err
	}
	granted, err := t.granted(body)
	if err != nil || !due(granted, t.s.deps.Clock.Now()) {
		return false, err
	}
	account, ok, err := t.s.deps.Store.Get(ctx, object.Key{Kind: object.ServiceAccounts, Namespace: ns, Name: name})
	if err != nil || !ok || account.Version.UID != accountUID { // a token of another account's
		return false, err
	}
	req := &authenticationv1.TokenRequest{}
	if err := json.Unmarshal(request, &req.Spec); err != nil {
		return false, fmt.Errorf("its request: %w", err)
	}
	reply, err := t.ask(ctx, ns, name, req, false)
	if err != nil {
		return false, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	answer, err := t.s.readReply(ctx, reply)
	if err != nil {
		return false, err
	}
	_, err = t.keep(ctx, key, podUID, answer)
	return err == nil, err
}

func (t *tokens) granted(body []byte) (*authenticationv1.TokenRequest, error) {
	o, err := t.s.codecs.decode(body)
	if err != nil {
		return nil, err
	}
	granted, ok := o.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, fmt.Errorf("it is a %T, expected a TokenRequest", o)
	}
	return granted, nil
}

// due reports whether a token is past the half of its life. The kubelet asks at four fifths; a link that is up now and then
// does not wait for that.
func due(granted *authenticationv1.TokenRequest, now time.Time) bool {
	life := time.Hour // the API server's default
	if s := granted.Spec.ExpirationSeconds; s != nil {
		life = time.Duration(*s) * time.Second
	}
	return granted.Status.ExpirationTimestamp.Sub(now) < life/2
}
