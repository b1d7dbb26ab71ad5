package tunnel

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// Callers judges who may ask a kubelet what.
type Callers struct {
	Authenticator authenticator.Request
	Authorizer    authorizer.Authorizer
	// Run keeps what they know up to date until ctx is done; nil if there is nothing to do.
	Run func(ctx context.Context)
}

// The lives of answers, as a kubelet keeps them.
const (
	authenticationTTL = 2 * time.Minute
	allowTTL          = 5 * time.Minute
	denyTTL           = 30 * time.Second
)

// Delegated asks the API server, as a kubelet does: certificates are those of the cluster's client CA, tokens are reviewed,
// and rights are looked up. Headers of a front proxy are ignored.
func Delegated(client kubernetes.Interface) (Callers, error) {
	// kube-apiserver publishes its client CA there for servers like this one.
	ca, err := dynamiccertificates.NewDynamicCAFromConfigMapController("client-ca", metav1.NamespaceSystem, "extension-apiserver-authentication", "client-ca-file", client)
	if err != nil {
		return Callers{}, fmt.Errorf("follow the cluster's client CA: %w", err)
	}
	backoff := &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 4}
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient: client.AuthenticationV1(), TokenAccessReviewTimeout: 10 * time.Second, WebhookRetryBackoff: backoff,
		CacheTTL: authenticationTTL, ClientCertificateCAContentProvider: ca,
	}.New()
	if err != nil {
		return Callers{}, fmt.Errorf("delegate authentication: %w", err)
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(), AllowCacheTTL: allowTTL, DenyCacheTTL: denyTTL, WebhookRetryBackoff: backoff,
	}.New()
	if err != nil {
		return Callers{}, fmt.Errorf("delegate authorization: %w", err)
	}
	return Callers{Authenticator: authn, Authorizer: authz, Run: func(ctx context.Context) { ca.Run(ctx, 1) }}, nil
}
