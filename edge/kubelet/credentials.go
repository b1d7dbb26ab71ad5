package kubelet

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// PullCredentials returns what the kubelet shows a registry for an image, in its order: that of the pod's pull secrets, then
// the node's own. None means that it asks without any. Credential provider plugins, which edgecore has none of, are left out.
func PullCredentials(image string, pull []corev1.Secret) ([]*runtimeapi.AuthConfig, error) {
	repository, _, _, err := parsers.ParseImageName(image)
	if err != nil {
		return nil, err
	}
	keyring, err := secrets.MakeDockerKeyring(pull, credentialprovider.NewDefaultDockerKeyring())
	if err != nil {
		return nil, fmt.Errorf("read the pull secrets of image %s: %w", image, err)
	}
	found, _ := keyring.Lookup(repository)
	var all []*runtimeapi.AuthConfig
	for _, c := range found {
		all = append(all, &runtimeapi.AuthConfig{Username: c.Username, Password: c.Password, Auth: c.Auth, ServerAddress: c.ServerAddress,
			IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken})
	}
	return all, nil
}
