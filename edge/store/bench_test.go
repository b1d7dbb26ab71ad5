package store

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// BenchmarkApplyStatus is one pod status from the kubelet: durable, with its outgoing write.
func BenchmarkApplyStatus(b *testing.B) {
	s := newStore(b)
	s.mustBatch(b, upsert(b, object.Pods, pod("a", "u1", 5)))
	c := withStatus(b, s.mustGet(b, podKey("a")), corev1.PodRunning)
	for b.Loop() {
		r, ok, err := s.Get(b.Context(), podKey("a"))
		if err != nil || !ok {
			b.Fatal(err)
		}
		c.Expect = r.LocalRV
		if _, err := s.Apply(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyEvents is events from many writers at once: group commit.
func BenchmarkApplyEvents(b *testing.B) {
	s := newStore(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.enqueue(b, event("e", 300)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkApplyBatch100 is a batch of 100 small ConfigMaps, each changed.
func BenchmarkApplyBatch100(b *testing.B) {
	benchmarkBatch(b, Deps{}, func(i int, rv uint64) Incoming {
		return upsert(b, object.ConfigMaps, configMap(fmt.Sprint(i), "u", rv, fmt.Sprint(rv)))
	})
}

// BenchmarkApplyBatch100Sealed is one of 100 Secrets of 1 KiB, each changed.
func BenchmarkApplyBatch100Sealed(b *testing.B) { benchmarkSecrets(b, Deps{Seal: sealer(1).open}) }

// BenchmarkApplyBatch100Plain is the same without sealing.
func BenchmarkApplyBatch100Plain(b *testing.B) { benchmarkSecrets(b, Deps{}) }

func benchmarkSecrets(b *testing.B, deps Deps) {
	benchmarkBatch(b, deps, func(i int, rv uint64) Incoming {
		return upsert(b, object.Secrets, secret(fmt.Sprint(i), rv, fmt.Sprintf("%01024d", rv)))
	})
}

func benchmarkBatch(b *testing.B, deps Deps, item func(i int, rv uint64) Incoming) {
	s, _ := running(b, testConfig(b.TempDir()), deps)
	rv := uint64(0)
	for b.Loop() {
		b.StopTimer()
		var batch []Incoming
		for i := range 100 {
			rv++
			batch = append(batch, item(i, rv))
		}
		b.StartTimer()
		s.mustBatch(b, batch...)
	}
}

func BenchmarkGet(b *testing.B) {
	s := newStore(b)
	s.mustBatch(b, upsert(b, object.Pods, pod("a", "u1", 5)))
	for b.Loop() {
		s.mustGet(b, podKey("a"))
	}
}
