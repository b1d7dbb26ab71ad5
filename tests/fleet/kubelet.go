package fleet

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
)

// kubelet says what a kubelet and the engine of devices would say: the Node is Ready, every pod runs from the moment in
// which it comes, and ends at once when it is deleted. It belongs to its store's mutex.
type kubelet struct {
	node    string
	base    *corev1.Node
	pods    map[object.Key]*corev1.Pod
	devices map[object.Key]string // uids
	// count is in the statuses of pods and devices, and grows: so one that is older than another is known.
	count int
}

func newKubelet(node string) kubelet {
	return kubelet{node: node, pods: map[object.Key]*corev1.Pod{}, devices: map[object.Key]string{}}
}

// took takes an object that the edge has committed, and returns what it writes because of it. What the cloud shows already
// is not written.
func (k *kubelet) took(key object.Key, uid string, body []byte) ([]object.Outgoing, error) {
	switch key.Kind {
	case object.Nodes, object.Pods:
	case object.Devices:
		k.devices[key] = uid
		return nil, nil
	default:
		return nil, nil
	}
	kind, _ := object.Lookup(key.Kind)
	o, err := object.Decode(kind, body)
	if err != nil {
		return nil, err
	}
	switch o := o.(type) {
	case *corev1.Node:
		k.base = o
		if condition(o.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) && o.Status.Allocatable.Pods().Value() == maxPods {
			return nil, nil
		}
		return k.heartbeat()
	case *corev1.Pod:
		if o.DeletionTimestamp != nil {
			return []object.Outgoing{{Key: key, UID: uid, Op: object.OpDelete, Priority: object.PriorityPod}}, nil
		}
		k.pods[key] = o
		k.count = max(k.count, Counted(o)) // another process may have had this edge before
		if ready(o) {
			return nil, nil
		}
		w, err := k.runs(key, o)
		return []object.Outgoing{w}, err
	}
	return nil, nil
}

// gone takes that an object went.
func (k *kubelet) gone(key object.Key) {
	delete(k.pods, key)
	delete(k.devices, key)
}

// maxPods is what each Node has room for, as kubelets have it by default.
const maxPods = 110

// heartbeat is the Node's status. Without a Node there is none.
func (k *kubelet) heartbeat() ([]object.Outgoing, error) {
	if k.base == nil {
		return nil, nil
	}
	now := metav1.Now()
	o := &object.Overlay{Node: &corev1.NodeStatus{
		Capacity:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: *resource.NewQuantity(maxPods, resource.DecimalSI)},
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address(k.node)}, {Type: corev1.NodeHostName, Address: k.node}},
		NodeInfo:  corev1.NodeSystemInfo{MachineID: k.node, KubeletVersion: "v1.36.0", OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "fleet://1"},
	}}
	o.Node.Allocatable = o.Node.Capacity.DeepCopy()
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"},
	} {
		c.LastHeartbeatTime, c.LastTransitionTime = now, k.base.CreationTimestamp
		o.Node.Conditions = append(o.Node.Conditions, c)
		o.Conditions = append(o.Conditions, string(c.Type))
	}
	for name := range o.Node.Capacity {
		o.Capacity = append(o.Capacity, string(name))
	}
	slices.Sort(o.Capacity)
	o.Allocatable = o.Capacity
	w, err := overlay(object.KeyOf(object.Nodes, k.base), string(k.base.UID), object.PriorityNode, o)
	return []object.Outgoing{w}, err
}

// runs is the status of a pod that runs.
func (k *kubelet) runs(key object.Key, p *corev1.Pod) (object.Outgoing, error) {
	k.count++
	began := p.CreationTimestamp
	s := &corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began, HostIP: address(k.node), PodIP: address(key.Name), QOSClass: p.Status.QOSClass,
		// Where a kubelet says nothing the simulation counts.
		Message: strconv.Itoa(k.count)}
	s.HostIPs, s.PodIPs = []corev1.HostIP{{IP: s.HostIP}}, []corev1.PodIP{{IP: s.PodIP}}
	o := &object.Overlay{Pod: s}
	for _, t := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: began})
		o.Conditions = append(o.Conditions, string(t))
	}
	for _, c := range p.Spec.Containers {
		started := true
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}})
	}
	return overlay(key, string(p.UID), object.PriorityPod, o)
}

// Counted is the number in a pod's status; 0 for none.
func Counted(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Status.Message)
	if err != nil {
		return 0
	}
	return n
}

// podsAgain is the status of every pod, changed.
func (k *kubelet) podsAgain() (writes []object.Outgoing, err error) {
	for _, key := range slices.SortedFunc(maps.Keys(k.pods), object.Key.Compare) {
		w, err := k.runs(key, k.pods[key])
		if err != nil {
			return nil, err
		}
		writes = append(writes, w)
	}
	return writes, nil
}

// report is what the engine of devices sends.
type report struct {
	UID        string             `json:"uid"`
	Twins      []v1beta1.Twin     `json:"twins"`
	Conditions []metav1.Condition `json:"conditions"`
}

// Property is the one that simulated devices report.
const Property = "count"

// priorityDevice is that of edge/device.
const priorityDevice = object.PriorityPod / 2

// devicesReport is a new value of every device.
func (k *kubelet) devicesReport() (writes []object.Outgoing, err error) {
	k.count++
	for _, key := range slices.SortedFunc(maps.Keys(k.devices), object.Key.Compare) {
		body, err := json.Marshal(report{UID: k.devices[key],
			Twins: []v1beta1.Twin{{PropertyName: Property, Reported: &v1beta1.TwinProperty{Value: strconv.Itoa(k.count),
				Metadata: map[string]string{"timestamp": strconv.FormatInt(time.Now().UnixMilli(), 10), "type": "INT"}}}},
			Conditions: []metav1.Condition{{Type: v1beta1.ConditionMapperConnected, Status: metav1.ConditionTrue, Reason: "Connected"},
				{Type: v1beta1.ConditionReported, Status: metav1.ConditionTrue, Reason: "AsDesired"}}})
		if err != nil {
			return nil, fmt.Errorf("encode the report of %s: %w", key, err)
		}
		writes = append(writes, object.Outgoing{Key: object.Key{Kind: object.DeviceStatuses, Namespace: key.Namespace, Name: key.Name}, UID: k.devices[key],
			Op: object.OpPut, Body: body, Class: object.ClassState, Priority: priorityDevice})
	}
	return writes, nil
}

func overlay(key object.Key, uid string, priority int, o *object.Overlay) (object.Outgoing, error) {
	body, err := object.EncodeOverlay(o)
	if err != nil {
		return object.Outgoing{}, err
	}
	return object.Outgoing{Key: key, UID: uid, Op: object.OpOverlay, Body: body, Priority: priority}, nil
}

func ready(p *corev1.Pod) bool {
	return condition(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

func condition[T any](all []T, is func(T) bool) bool { return slices.ContainsFunc(all, is) }

// address is an address that nothing has, of its own for nearly each name.
func address(name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	n := h.Sum32()
	return net.IPv4(10, byte(n>>16), byte(n>>8), byte(n)).String()
}
