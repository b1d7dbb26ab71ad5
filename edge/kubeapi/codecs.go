package kubeapi

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/tether-edge/tether/common/object"
)

// codecs reads and writes API objects in external versions only: the edge keeps and serves each kind in one version,
// so there is nothing to convert.
type codecs struct {
	scheme *runtime.Scheme
	serializer.CodecFactory
	params runtime.ParameterCodec
}

func newCodecs() (*codecs, error) {
	s := object.NewScheme()
	if err := authenticationv1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("add authentication/v1: %w", err)
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for kind, labels := range selectable {
		if err := s.AddFieldLabelConversionFunc(corev1.SchemeGroupVersion.WithKind(kind), acceptLabels(labels)); err != nil {
			return nil, fmt.Errorf("field labels of %s: %w", kind, err)
		}
	}
	return &codecs{scheme: s, CodecFactory: serializer.NewCodecFactory(s), params: runtime.NewParameterCodec(s)}, nil
}

// acceptLabels checks a field selector's label as the API server does for its built-in kinds, with its words.
func acceptLabels(labels []string) runtime.FieldLabelConversionFunc {
	known := map[string]bool{"metadata.name": true, "metadata.namespace": true}
	for _, l := range labels {
		known[l] = true
	}
	return func(label, value string) (string, string, error) {
		if label == "spec.host" && known["spec.nodeName"] {
			return "spec.nodeName", value, nil // the name of the field before v1
		}
		if !known[label] {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	}
}

// encodeJSON returns o as JSON with its apiVersion and kind.
func (c *codecs) encodeJSON(gv schema.GroupVersion, o runtime.Object) ([]byte, error) {
	return runtime.Encode(c.LegacyCodec(gv), o)
}

// decode reads a body of any media type that the API speaks; it recognizes the type from the body.
func (c *codecs) decode(body []byte) (runtime.Object, error) {
	return runtime.Decode(c.UniversalDeserializer(), body)
}
