// Package upstream runs cloud/upstream and cloud/node against a real control plane, with the rights of
// build/manifests and no others.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/cloud/controlplane"
)

// world is the one control plane of this package's tests.
type world struct {
	admin  *rest.Config
	client *kubernetes.Clientset
}

var shared world

func TestMain(m *testing.M) {
	if controlplane.IsComponent(os.Args[1:]) {
		os.Exit(controlplane.RunComponent(os.Args[1:]))
	}
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "control plane for the tests:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "tether-upstream-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	cfg := controlplane.DefaultConfig()
	cfg.DataDir = dir + "/data"
	cfg.SecurePort, cfg.EtcdPort, cfg.EtcdPeerPort, cfg.ControllerManagerPort, cfg.SchedulerPort = 0, 0, 0, 0, 0
	cp := controlplane.New(cfg, controlplane.Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Progress: io.Discard})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- cp.Start(ctx) }()
	select {
	case <-cp.Ready():
	case err := <-ended:
		stop()
		return 1, err
	}
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if err := prepare(cp.Info().Kubeconfig); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

func prepare(kubeconfig string) error {
	rc, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	rc.QPS = -1
	shared.admin = rc
	if shared.client, err = kubernetes.NewForConfig(rc); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// Three CloudCores, each with its rights: none as a node, constrained, legacy.
	for namespace, files := range map[string][][]byte{
		"tether-none":   {build.RBAC()},
		build.Namespace: {build.RBAC(), build.ConstrainedImpersonation()},
		"tether-legacy": {build.RBAC(), build.LegacyImpersonation()},
	} {
		for _, f := range files {
			if err := apply(ctx, namespace, string(f)); err != nil {
				return fmt.Errorf("apply manifests for %s: %w", namespace, err)
			}
		}
	}
	return nil
}

// apply creates the objects of the manifests for a CloudCore in the namespace given.
func apply(ctx context.Context, namespace, docs string) error {
	docs = strings.ReplaceAll(docs, "namespace: "+build.Namespace, "namespace: "+namespace)
	docs = strings.ReplaceAll(docs, "name: "+build.Namespace, "name: "+namespace)
	docs = strings.ReplaceAll(docs, "name: tether:cloudcore", "name: "+namespace+":cloudcore")
	for _, doc := range strings.Split(docs, "\n---\n") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			return err
		}
		var err error
		opts := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
		switch head.Kind {
		case "Namespace":
			err = create(doc, &corev1.Namespace{}, func(o *corev1.Namespace) error {
				_, err := shared.client.CoreV1().Namespaces().Create(ctx, o, opts)
				return err
			})
		case "ServiceAccount":
			err = create(doc, &corev1.ServiceAccount{}, func(o *corev1.ServiceAccount) error {
				_, err := shared.client.CoreV1().ServiceAccounts(o.Namespace).Create(ctx, o, opts)
				return err
			})
		case "ClusterRole":
			err = create(doc, &rbacv1.ClusterRole{}, func(o *rbacv1.ClusterRole) error {
				_, err := shared.client.RbacV1().ClusterRoles().Create(ctx, o, opts)
				return err
			})
		case "ClusterRoleBinding":
			err = create(doc, &rbacv1.ClusterRoleBinding{}, func(o *rbacv1.ClusterRoleBinding) error {
				_, err := shared.client.RbacV1().ClusterRoleBindings().Create(ctx, o, opts)
				return err
			})
		case "Role":
			err = create(doc, &rbacv1.Role{}, func(o *rbacv1.Role) error {
				_, err := shared.client.RbacV1().Roles(o.Namespace).Create(ctx, o, opts)
				return err
			})
		case "RoleBinding":
			err = create(doc, &rbacv1.RoleBinding{}, func(o *rbacv1.RoleBinding) error {
				_, err := shared.client.RbacV1().RoleBindings(o.Namespace).Create(ctx, o, opts)
				return err
			})
		default:
			err = fmt.Errorf("a manifest holds a %q, which these tests do not know", head.Kind)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func create[T any](doc string, into *T, do func(*T) error) error {
	if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
		return err
	}
	if err := do(into); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// cloudcore returns the credentials of the CloudCore in that namespace: a token of its service account.
func cloudcore(t testing.TB, namespace string) *rest.Config {
	t.Helper()
	hour := int64(3600)
	tok, err := shared.client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), build.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rc := rest.AnonymousClientConfig(shared.admin)
	rc.BearerToken, rc.QPS = tok.Status.Token, -1
	return rc
}

// eventually waits for a condition, which returns what it saw where it does not hold.
func eventually(t testing.TB, within time.Duration, condition func() (saw string, ok bool)) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		saw, ok := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s; last seen: %s", within, saw)
		}
		<-tick.C
	}
}
