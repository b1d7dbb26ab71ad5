package keadm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tether-edge/tether/build"
)

var definitionResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// served waits until the cluster serves the kinds that were just defined: CloudCore asks for them at its start.
func (c *clusterClient) served(ctx context.Context, w IO) error {
	client, err := dynamic.NewForConfig(c.rest)
	if err != nil {
		return fmt.Errorf("ask for the kinds of devices: %w", err)
	}
	wanted, err := documents(build.CRDs())
	if err != nil {
		return err
	}
	return waitFor(ctx, w, time.Minute, often, "the kinds of devices to be served", func(ctx context.Context) answer {
		for _, crd := range wanted {
			obj, err := client.Resource(definitionResource).Get(ctx, crd.GetName(), metav1.GetOptions{})
			if err != nil {
				return answer{missing: err.Error()}
			}
			if missing := notServed(obj); missing != "" {
				return answer{missing: missing}
			}
		}
		return answer{ok: true}
	})
}

// notServed says why a defined kind is not served, empty if it is.
func notServed(crd *unstructured.Unstructured) string {
	missing := crd.GetName() + " is not established yet"
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		c, _ := c.(map[string]any)
		switch {
		case c["type"] == "Established" && c["status"] == "True":
			return ""
		case c["type"] == "NamesAccepted" && c["status"] == "False":
			missing = fmt.Sprintf("%s: %v", crd.GetName(), c["message"])
		}
	}
	return missing
}

// leaveDefinitions says what a reset leaves of devices, so that nobody believes them gone.
func (c *clusterClient) leaveDefinitions(ctx context.Context, w IO) error {
	there, counts, err := c.definitions(ctx)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		fmt.Fprintf(w.Out, "kept     the definitions of device kinds, and with them %s; 'keadm reset cloud --crds' removes both\n", counts)
	}
	return nil
}

// removeDefinitions deletes the kinds of devices, and so every object of them in every namespace, and waits for that.
func (c *clusterClient) removeDefinitions(ctx context.Context, w IO) error {
	there, counts, err := c.definitions(ctx)
	if err != nil || len(there) == 0 {
		return err
	}
	client, err := dynamic.NewForConfig(c.rest)
	if err != nil {
		return fmt.Errorf("remove the kinds of devices: %w", err)
	}
	for _, name := range there {
		if err := client.Resource(definitionResource).Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete CustomResourceDefinition %s: %w", name, err)
		}
	}
	err = waitFor(ctx, w, 2*time.Minute, often, "the kinds of devices to be gone", func(ctx context.Context) answer {
		left, counts, err := c.definitions(ctx)
		switch {
		case err != nil:
			return answer{missing: err.Error()}
		case len(left) > 0:
			return answer{missing: "still there: " + counts}
		}
		return answer{ok: true}
	})
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("%w: an object with a finalizer whose controller is gone holds its kind up: remove the finalizer", err)
	}
	if err == nil {
		fmt.Fprintf(w.Out, "removed  the definitions of device kinds, and with them %s\n", counts)
	}
	return err
}

// definitions returns the names of those that the cluster holds, and how many objects of each kind there are, in words.
func (c *clusterClient) definitions(ctx context.Context) (names []string, counts string, err error) {
	client, err := dynamic.NewForConfig(c.rest)
	if err != nil {
		return nil, "", fmt.Errorf("look for devices: %w", err)
	}
	wanted, err := documents(build.CRDs())
	if err != nil {
		return nil, "", err
	}
	var words []string
	for _, crd := range wanted {
		if _, err := client.Resource(definitionResource).Get(ctx, crd.GetName(), metav1.GetOptions{}); apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, "", fmt.Errorf("look for devices: %w", err)
		}
		names = append(names, crd.GetName())
		n, kind, err := count(ctx, client, crd)
		if err != nil {
			return nil, "", fmt.Errorf("look for devices: %w", err)
		}
		words = append(words, fmt.Sprintf("%d %s", n, kind))
	}
	return names, strings.Join(words, ", "), nil
}

// count returns how many objects of a defined kind there are; none where it is not served.
func count(ctx context.Context, client dynamic.Interface, crd *unstructured.Unstructured) (n int64, resource string, err error) {
	resource, _, _ = unstructured.NestedString(crd.Object, "spec", "names", "plural")
	group, _, _ := unstructured.NestedString(crd.Object, "spec", "group")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	version, _ := versions[0].(map[string]any)
	name, _ := version["name"].(string)
	list, err := client.Resource(schema.GroupVersionResource{Group: group, Version: name, Resource: resource}).List(ctx, metav1.ListOptions{Limit: 1})
	if apierrors.IsNotFound(err) {
		return 0, resource, nil
	}
	if err != nil {
		return 0, resource, err
	}
	n = int64(len(list.Items))
	if more := list.GetRemainingItemCount(); more != nil {
		n += *more
	}
	return n, resource, nil
}
