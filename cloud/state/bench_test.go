package state_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/cloud/state"
	"github.com/tether-edge/tether/cloud/state/statetest"
	"github.com/tether-edge/tether/common/object"
)

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkMemory reports the heap that a pod of about 1.2 KB takes, with its share of everything else: 20,000 pods
// on 2,000 subscribed nodes, each pod with a ConfigMap that its node's pods share.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		cluster := statetest.New()
		for n := range 2000 {
			nodeName := fmt.Sprintf("node-%d", n)
			cluster.Put(node(nodeName))
			cluster.Put(configMap("ns", nodeName, strings.Repeat("value ", 50)))
			for i := range 10 {
				p := pod("ns", fmt.Sprintf("pod-%d-%d", n, i), nodeName, nodeName)
				p.Spec.Containers = []corev1.Container{{Name: "c", Image: "registry.example/image:1", Command: strings.Split(strings.Repeat("argument ", 80), " ")}}
				cluster.Put(p)
			}
		}
		before := heap()
		w := synced(b, cluster, state.Config{})
		plain := heap()
		for n := range 2000 {
			w.cache.Subscribe(fmt.Sprintf("node-%d", n), func([]object.Key) {})
		}
		subscribed := heap()
		b.ReportMetric((plain-before)/20000, "heap-B/pod")
		b.ReportMetric(w.metric("tether_state_object_bytes", "pods")/20000, "body-B/pod")
		b.ReportMetric((subscribed-plain)/2000, "heap-B/subscriber")
		runtime.KeepAlive(cluster)
	}
}

// BenchmarkChange is one change of a ConfigMap that one node of 2,000 sees, from the write to the view.
func BenchmarkChange(b *testing.B) {
	cluster := statetest.New()
	for n := range 2000 {
		cluster.Put(pod("ns", fmt.Sprint(n), fmt.Sprint(n), fmt.Sprint(n)))
		cluster.Put(configMap("ns", fmt.Sprint(n), "x"))
	}
	w := synced(b, cluster, state.Config{})
	told := make(chan object.Key, 1)
	for n := range 2000 {
		w.cache.Subscribe(fmt.Sprint(n), func(keys []object.Key) { told <- keys[0] })
	}
	for b.Loop() {
		cluster.Put(configMap("ns", "77", "y"))
		<-told
	}
}
