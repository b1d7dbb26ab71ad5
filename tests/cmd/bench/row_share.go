package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build/images"
)

// leaseLimit is how old a node's Lease may become while streams take all they can, in seconds: renewed every 15.
const leaseLimit = 20

// measureShare changes ConfigMaps one by one while a stream to the node takes all it can, up or both ways, over both
// transports: neither the changes nor the heartbeats may wait for it.
func measureShare(ctx context.Context, b *bench) error {
	m, err := b.mapsSystem(ctx, changeMaps, nil)
	if err != nil {
		return err
	}
	return m.down(m.share(ctx))
}

func (m *mapsSystem) share(ctx context.Context) error {
	for _, p := range []v1alpha1.Protocol{v1alpha1.ProtocolWebSocket, v1alpha1.ProtocolQUIC} {
		if err := m.carryBy(ctx, m.edge, p); err != nil {
			return err
		}
		if err := m.answers(ctx, "reader"); err != nil {
			return err
		}
		for _, load := range []struct {
			what  string
			begin begin
		}{
			{"nothing else", nil},
			{"a stream up", m.flooding("exec", "reader", "--", "/demo", "zeros", "1000000000000")},
			{"a stream both ways", m.flooding("exec", "-i", "reader", "--", "/demo", "cat", "/dev/stdin")},
			{"kubectl cp of 1 GiB to a pod", m.copying},
		} {
			if err := m.shareWith(ctx, p, load.what, load.begin); err != nil {
				return fmt.Errorf("%s: %w", load.what, err)
			}
		}
		if err := m.shareWithLogger(ctx, p); err != nil {
			return fmt.Errorf("a mad logger: %w", err)
		}
	}
	return nil
}

// begin starts what takes all it can, until end is called, which returns how many MB it moved a second.
type begin func(context.Context) (end func() (rate float64, err error), err error)

// flooding is a kubectl with endless input.
func (m *mapsSystem) flooding(args ...string) begin {
	return func(ctx context.Context) (func() (float64, error), error) { return m.flood(ctx, args...) }
}

// copying has kubectl cp copy a file of 1 GiB to a pod, again and again. Its end waits for the copy that is under way.
func (m *mapsSystem) copying(ctx context.Context) (func() (float64, error), error) {
	const size = 1 << 30
	dir, err := os.MkdirTemp("", "tether-bench-")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	last := make(chan struct{})
	type result struct {
		rate float64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		start := time.Now()
		for n := 1; ; n++ {
			cmd, err := m.kubectlCommand(ctx, "cp", path, "reader:/copied")
			if err == nil {
				var out []byte
				if out, err = cmd.CombinedOutput(); err != nil {
					err = fmt.Errorf("kubectl cp: %w: %s", err, out)
				}
			}
			select {
			case <-last:
			default:
				if err == nil {
					continue
				}
			}
			done <- result{float64(n) * size / 1e6 / time.Since(start).Seconds(), err}
			return
		}
	}()
	return func() (float64, error) {
		close(last)
		r := <-done
		return r.rate, errors.Join(r.err, os.RemoveAll(dir))
	}, nil
}

// shareWithLogger has kubectl follow the log of a pod that logs as much as its runtime takes. The pod is there for that long
// only: its log grows by more than is rotated away.
func (m *mapsSystem) shareWithLogger(ctx context.Context, p v1alpha1.Protocol) error {
	const name = "mad"
	pods := m.Admin.CoreV1().Pods(namespace)
	_, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: corev1.PodSpec{
		NodeName: m.edge.Name(), TerminationGracePeriodSeconds: new(int64(0)), Containers: []corev1.Container{{Name: "demo", Image: images.Demo,
			ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"lines", "1000000000000"}}}}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make its pod: %w", err)
	}
	err = until(ctx, poll, readyTimeout, "the pod that logs", func() error { return m.podsReady(ctx, name, 1) })
	if err == nil {
		err = m.shareWith(ctx, p, "logs -f of a mad logger", m.flooding("logs", "-f", "--tail=1", name))
	}
	return errors.Join(err, pods.Delete(ctx, name, metav1.DeleteOptions{}), until(ctx, poll, readyTimeout, "the end of the pod that logs", func() error {
		_, all, err := m.countPods(ctx, name)
		if err == nil && all > 0 {
			err = errors.New("it is there")
		}
		return err
	}))
}

// shareWith changes every map once while something takes all it can.
func (m *mapsSystem) shareWith(ctx context.Context, p v1alpha1.Protocol, what string, begin begin) error {
	end := func() (float64, error) { return 0, nil }
	if begin != nil {
		var err error
		if end, err = begin(ctx); err != nil {
			return err
		}
		// It is under way, and grew to its full rate.
		if err := m.bench.rest(ctx, 3*time.Second); err != nil {
			return errors.Join(err, ignore(end()))
		}
	}
	before, err := m.edge.Status(ctx)
	if err != nil {
		return errors.Join(err, ignore(end()))
	}
	oldest := m.oldestLease(ctx)
	var c changes
	if err := m.changeAll(ctx, &c); err != nil {
		return errors.Join(err, ignore(end()))
	}
	age := oldest()
	rate, err := end()
	if err != nil {
		return err
	}
	after, err := m.edge.Status(ctx)
	if err != nil {
		return err
	}
	if before.Link.Since != after.Link.Since {
		return fmt.Errorf("the session ended under it: connected since %v, then since %v", before.Link.Since, after.Link.Since)
	}
	sorted := slices.Sorted(slices.Values(c.farFromRequest))
	note := fmt.Sprintf("p90 %s ms", number(percentile(sorted, 90)))
	if begin != nil {
		note += fmt.Sprintf("; the stream moved %s MB/s", number(rate))
	}
	m.bench.figure(Figure{What: fmt.Sprintf("one change over %s beside %s, edge over plain watch, from the request", p, what), Limit: atMost(2),
		Values: []float64{median(c.farFromRequest) / median(c.nearFromRequest)}})
	m.bench.figure(Figure{What: fmt.Sprintf("one change over %s beside %s, request to edge commit", p, what), Unit: "ms", Values: c.farFromRequest, Note: note})
	m.bench.figure(Figure{What: fmt.Sprintf("oldest Lease over %s beside %s", p, what), Unit: "s", Limit: atMost(leaseLimit), Values: []float64{age}})
	return nil
}

func ignore(_ float64, err error) error { return err }

// flood runs kubectl with endless input until end is called, which returns how many MB it printed a second.
func (s *system) flood(ctx context.Context, args ...string) (end func() (rate float64, err error), err error) {
	cmd, err := s.kubectlCommand(ctx, args...)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	fed, printed := make(chan struct{}), make(chan int64)
	go func() {
		_, _ = io.Copy(in, zeros{}) // until kubectl ends
		close(fed)
	}()
	go func() {
		n, _ := io.Copy(io.Discard, out)
		printed <- n
	}()
	return func() (float64, error) {
		took := time.Since(start)
		if err := cmd.Process.Kill(); err != nil {
			return 0, fmt.Errorf("kubectl ended by itself: %w", err)
		}
		n := <-printed
		<-fed
		_ = cmd.Wait() // killed
		if n == 0 {
			return 0, errors.New("the stream moved nothing")
		}
		return float64(n) / 1e6 / took.Seconds(), nil
	}, nil
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// oldestLease looks at the node's Lease until its result is called, which is the oldest that it became, in seconds.
func (m *mapsSystem) oldestLease(ctx context.Context) (oldest func() float64) {
	ctx, stop := context.WithCancel(ctx)
	result := make(chan float64, 1)
	go func() {
		var age float64
		for wait(ctx, poll) == nil {
			if l, err := m.Admin.CoordinationV1().Leases("kube-node-lease").Get(ctx, m.edge.Name(), metav1.GetOptions{}); err == nil && l.Spec.RenewTime != nil {
				age = max(age, time.Since(l.Spec.RenewTime.Time).Seconds())
			}
		}
		result <- age
	}()
	return func() float64 { stop(); return <-result }
}
