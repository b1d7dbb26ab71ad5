package kubeapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/tether-edge/tether/common/object"
)

// usageVersion is the API of metrics-server, which `kubectl top` asks. Here the kubelet answers it, so that it is there
// without metrics-server and without the cloud.
var usageVersion = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}

var usageResources = []metav1.APIResource{
	{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}},
	{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: metav1.Verbs{"get", "list"}},
}

// usageWindow is the time over which a kubelet measures the use of processors.
const usageWindow = 10 * time.Second

// metricsObject is a NodeMetrics, with Usage, or a PodMetrics, with Containers (k8s.io/metrics/pkg/apis/metrics/v1beta1).
type metricsObject struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        metricsMeta         `json:"metadata"`
	Timestamp       metav1.Time         `json:"timestamp"`
	Window          metav1.Duration     `json:"window"`
	Usage           corev1.ResourceList `json:"usage,omitempty"`
	Containers      []containerMetrics  `json:"containers,omitempty"`
}

type metricsMeta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace,omitempty"`
	CreationTimestamp metav1.Time       `json:"creationTimestamp"`
	Labels            map[string]string `json:"labels,omitempty"`
}

type containerMetrics struct {
	Name  string              `json:"name"`
	Usage corev1.ResourceList `json:"usage"`
}

type metricsList struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{}        `json:"metadata"`
	Items           []metricsObject `json:"items"`
}

// serveUsage answers what nodes and pods use at present.
func (s *Server) serveUsage(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) {
	reader, kind := s.podReader, "PodMetrics"
	if info.Resource == "nodes" {
		reader, kind = s.nodeReader, "NodeMetrics"
	}
	gr := schema.GroupResource{Group: usageVersion.Group, Resource: info.Resource}
	switch {
	case info.Resource != "nodes" && info.Resource != "pods" || info.Subresource != "":
		s.fail(w, req, notFound(gr, info.Name))
		return
	case info.Verb != "get" && info.Verb != "list":
		s.fail(w, req, methodNotAllowed())
		return
	}
	items, err := s.usageOf(req, info, reader, kind)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	if info.Verb == "list" {
		list := metricsList{TypeMeta: typeOf(kind + "List"), Items: items}
		responsewriters.WriteRawJSON(http.StatusOK, list, w)
		return
	}
	if len(items) == 0 {
		s.fail(w, req, notFound(gr, info.Name))
		return
	}
	items[0].TypeMeta = typeOf(kind)
	responsewriters.WriteRawJSON(http.StatusOK, items[0], w)
}

func typeOf(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{Kind: kind, APIVersion: usageVersion.String()}
}

// usageOf measures the objects that the request selects. Those without a measurement yet are left out.
func (s *Server) usageOf(req *http.Request, info *request.RequestInfo, reader *resource, kind string) ([]metricsObject, error) {
	opts, err := usageOptions(req, reader)
	if err != nil {
		return nil, err
	}
	list, err := reader.List(request.WithNamespace(req.Context(), info.Namespace), opts)
	if err != nil {
		return nil, err
	}
	sum, err := s.summary(req)
	if err != nil {
		return nil, unavailable("the kubelet of this node does not say what is used: %v", err)
	}
	items := []metricsObject{}
	add := func(o object.Object, measured metricsObject, ok bool) {
		if !ok || info.Name != "" && info.Name != o.GetName() {
			return
		}
		measured.Metadata = metricsMeta{Name: o.GetName(), Namespace: o.GetNamespace(), CreationTimestamp: metav1.NewTime(s.deps.Clock.Now()), Labels: o.GetLabels()}
		measured.Window.Duration = usageWindow
		items = append(items, measured)
	}
	switch list := list.(type) {
	case *corev1.NodeList:
		for i := range list.Items {
			o := &list.Items[i]
			usage, at, ok := used(sum.Node.CPU, sum.Node.Memory)
			add(o, metricsObject{Usage: usage, Timestamp: at}, ok && o.Name == sum.Node.NodeName)
		}
	case *corev1.PodList:
		for i := range list.Items {
			measured, ok := usedByPod(&list.Items[i], sum.Pods)
			add(&list.Items[i], measured, ok)
		}
	}
	return items, nil
}

// usageOptions reads which objects are meant, by labels and by the fields that a list of them takes.
func usageOptions(req *http.Request, reader *resource) (opts *metainternalversion.ListOptions, err error) {
	opts = &metainternalversion.ListOptions{}
	query := req.URL.Query()
	if opts.LabelSelector, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return nil, badRequest("%v", err)
	}
	if opts.FieldSelector, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
		return nil, badRequest("%v", err)
	}
	opts.FieldSelector, err = opts.FieldSelector.Transform(func(label, value string) (string, string, error) {
		return reader.s.codecs.scheme.ConvertFieldLabel(reader.kind.GroupVersionKind, label, value)
	})
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return opts, nil
}

// usedByPod finds a pod among those measured. A pod of which a container was not measured yet would look too small.
func usedByPod(pod *corev1.Pod, measured []stats.PodStats) (out metricsObject, ok bool) {
	i := slices.IndexFunc(measured, func(p stats.PodStats) bool {
		return p.PodRef.Namespace == pod.Namespace && p.PodRef.Name == pod.Name
	})
	if i < 0 || len(measured[i].Containers) == 0 {
		return out, false
	}
	for _, c := range measured[i].Containers {
		usage, at, ok := used(c.CPU, c.Memory)
		if !ok {
			return out, false
		}
		out.Containers = append(out.Containers, containerMetrics{Name: c.Name, Usage: usage})
		out.Timestamp = at
	}
	return out, true
}

// used is a measurement as the API gives it; ok is false if there is none.
func used(cpu *stats.CPUStats, memory *stats.MemoryStats) (usage corev1.ResourceList, at metav1.Time, ok bool) {
	if cpu == nil || cpu.UsageNanoCores == nil || memory == nil || memory.WorkingSetBytes == nil {
		return nil, at, false
	}
	return corev1.ResourceList{
		corev1.ResourceCPU:    *quantity.NewScaledQuantity(int64(*cpu.UsageNanoCores), quantity.Nano),
		corev1.ResourceMemory: *quantity.NewQuantity(int64(*memory.WorkingSetBytes), quantity.BinarySI),
	}, cpu.Time, true
}

// maxSummary bounds the kubelet's answer, in bytes: some hundred pods have less than 1 MiB.
const maxSummary = 16 << 20

// summary asks the kubelet what is used.
func (s *Server) summary(req *http.Request) (*stats.Summary, error) {
	ask, err := http.NewRequestWithContext(req.Context(), http.MethodGet, "https://kubelet/stats/summary?only_cpu_and_memory=true", nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.deps.Kubelet.RoundTrip(ask)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	out := &stats.Summary{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSummary)).Decode(out); err != nil {
		return nil, fmt.Errorf("read its answer: %w", err)
	}
	return out, nil
}
