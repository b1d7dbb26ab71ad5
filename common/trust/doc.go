// Package trust keeps what decides who may be an edge of a cluster: the edge CA, join tokens, the record of each node's
// identity, and revocations. All of it lives in Secrets of the cluster, in CloudCore's namespace, so that replicas and
// keadm see the same.
//
// It promises that two that start at once agree on one CA (creates with preconditions), that a token's secret is stored
// as a hash, that a use of a token is counted before anything is signed, and that a certificate's revocation is a fact of
// the cluster, not of one process. cloud/issuer signs by it, cloud/cloudcore and keadm read and write it.
package trust

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/pki"
)

// Namespace holds the Secrets.
const Namespace = "tether-system"

// Label marks the Secrets of this package with what they are: ca, token, identity or revocations.
const Label = "tether.io/trust"

// Kinds of Secret, the values of Label.
const (
	kindCA          = "ca"
	kindToken       = "token"
	kindIdentity    = "identity"
	kindRevocations = "revocations"
)

// A Store reads and writes the trust of one cluster. It is safe for concurrent use.
type Store struct {
	client kubernetes.Interface
	now    pki.Clock
}

// New returns a Store over a client that may read and write Secrets in Namespace.
func New(client kubernetes.Interface, now pki.Clock) *Store { return &Store{client: client, now: now} }

func (s *Store) get(ctx context.Context, name string) (*corev1.Secret, error) {
	return s.client.CoreV1().Secrets(Namespace).Get(ctx, name, metav1.GetOptions{})
}

func (s *Store) list(ctx context.Context, kind string) ([]corev1.Secret, error) {
	l, err := s.client.CoreV1().Secrets(Namespace).List(ctx, metav1.ListOptions{LabelSelector: Label + "=" + kind})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

func (s *Store) create(ctx context.Context, name, kind string, data map[string][]byte) (*corev1.Secret, error) {
	return s.client.CoreV1().Secrets(Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: Namespace, Labels: map[string]string{Label: kind}},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}, metav1.CreateOptions{})
}

// maxConflicts bounds the tries of a change that others make at the same time.
const maxConflicts = 10

// change makes or changes a Secret: edit is called with what is there (empty at first) until nobody was faster. edit's
// error ends it unchanged.
func (s *Store) change(ctx context.Context, name, kind string, edit func(data map[string][]byte) error) error {
	var err error
	for range maxConflicts {
		var held *corev1.Secret
		held, err = s.get(ctx, name)
		if apierrors.IsNotFound(err) {
			data := map[string][]byte{}
			if err := edit(data); err != nil {
				return err
			}
			if _, err = s.create(ctx, name, kind, data); err == nil {
				return nil
			}
			if !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create Secret %s/%s: %w", Namespace, name, err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read Secret %s/%s: %w", Namespace, name, err)
		}
		if held.Data == nil {
			held.Data = map[string][]byte{}
		}
		if err := edit(held.Data); err != nil {
			return err
		}
		// The update carries the resourceVersion that was read.
		if _, err = s.client.CoreV1().Secrets(Namespace).Update(ctx, held, metav1.UpdateOptions{}); err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update Secret %s/%s: %w", Namespace, name, err)
		}
	}
	return fmt.Errorf("update Secret %s/%s: others were faster %d times: %w", Namespace, name, maxConflicts, err)
}

func formatTime(t time.Time) []byte { return []byte(t.UTC().Format(time.RFC3339)) }

// parseTime reads what formatTime wrote; zero for anything else.
func parseTime(b []byte) time.Time {
	t, err := time.Parse(time.RFC3339, string(b))
	if err != nil {
		return time.Time{}
	}
	return t
}
