package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/common/pki"
)

// applyManifests gives CloudCore its rights, as `kubectl apply` of build/manifests would.
func applyManifests(ctx context.Context, config *rest.Config) error {
	disc, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return fmt.Errorf("apply manifests: %w", err)
	}
	groups, err := restmapper.GetAPIGroupResources(disc)
	if err != nil {
		return fmt.Errorf("apply manifests: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("apply manifests: %w", err)
	}
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(bytes.Join([][]byte{build.RBAC(), build.ConstrainedImpersonation()}, []byte("\n---\n"))), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read manifests: %w", err)
		}
		if len(obj.Object) == 0 {
			continue
		}
		mapping, err := mapper.RESTMapping(obj.GroupVersionKind().GroupKind(), obj.GroupVersionKind().Version)
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
		var r dynamic.ResourceInterface = client.Resource(mapping.Resource)
		if obj.GetNamespace() != "" {
			r = client.Resource(mapping.Resource).Namespace(obj.GetNamespace())
		}
		if _, err := r.Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: "quickstart", Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
}

// writeServiceAccountKubeconfig writes a kubeconfig with a token of CloudCore's service account: it has the rights of
// the manifests and no others.
func writeServiceAccountKubeconfig(ctx context.Context, client kubernetes.Interface, config *rest.Config, file string) error {
	day := int64(30 * 24 * 3600)
	req, err := client.CoreV1().ServiceAccounts(build.Namespace).CreateToken(ctx, build.ServiceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make CloudCore's token: %w", err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["cluster"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile}
	c.AuthInfos["cloudcore"] = &clientcmdapi.AuthInfo{Token: req.Status.Token}
	c.Contexts["cloudcore"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "cloudcore"}
	c.CurrentContext = "cloudcore"
	b, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	return pki.WriteFile(file, b, 0o600)
}

// run runs a program to its end.
func run(ctx context.Context, program string, args ...string) error {
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w: %s", program, args, err, bytes.TrimSpace(out))
	}
	return nil
}
