package keadm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// fieldManager names keadm in managedFields.
const fieldManager = "keadm"

// clusterClient is the way to a cluster.
type clusterClient struct {
	rest *rest.Config
	kubernetes.Interface
}

// connect reads a kubeconfig: the file given, else KUBECONFIG or ~/.kube/config.
func connect(kubeconfig string) (*clusterClient, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w: name its admin's kubeconfig with --kubeconfig", err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	return &clusterClient{config, client}, nil
}

// documents reads YAML documents.
func documents(manifests []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := docs.Decode(obj); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		if len(obj.Object) > 0 {
			out = append(out, obj)
		}
	}
}

// resources finds the clients of objects.
type resources struct {
	of func(*unstructured.Unstructured) (dynamic.ResourceInterface, error)
}

func (c *clusterClient) resources() (*resources, error) {
	disc, err := discovery.NewDiscoveryClientForConfig(c.rest)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster what it knows: %w", err)
	}
	groups, err := restmapper.GetAPIGroupResources(disc)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster what it knows: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	client, err := dynamic.NewForConfig(c.rest)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster what it knows: %w", err)
	}
	return &resources{func(obj *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
		mapping, err := mapper.RESTMapping(obj.GroupVersionKind().GroupKind(), obj.GroupVersionKind().Version)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
		if obj.GetNamespace() != "" {
			return client.Resource(mapping.Resource).Namespace(obj.GetNamespace()), nil
		}
		return client.Resource(mapping.Resource), nil
	}}, nil
}

// apply makes the cluster hold the objects, as `kubectl apply --server-side` does.
func (c *clusterClient) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	r, err := c.resources()
	if err != nil {
		return err
	}
	for _, obj := range objects {
		client, err := r.of(obj)
		if err != nil {
			return fmt.Errorf("apply %w", err)
		}
		if _, err := client.Apply(ctx, obj.GetName(), obj, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return nil
}
