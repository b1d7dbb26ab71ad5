package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// Single reports: so many in a round, so long after the one before was seen, in turn by so many devices. None comes near
// the rate at which the cloud writes one device.
const (
	reportCount   = 200
	reportGap     = 100 * time.Millisecond
	reportDevices = 4
)

// A train of reports by one device.
const (
	trainRate = 100 // a second
	trainTime = 20 * time.Second
)

// Bursts of one device: so many properties one right after the other, and when it is looked at what the cluster shows.
const (
	burstProperties = 10
	deviceBursts    = 15
	burstLook       = 4 * time.Second
)

// cutChanges are made while the cable is cut, each property in turn. cutPatience bounds the wait for the last of them.
const (
	cutChanges  = 50
	cutPatience = time.Minute
)

// measureReport reports by MQTT on the edge and looks at DeviceStatuses with a plain watch: one report at a time, a train of
// them, bursts, and what was reported while the edge was cut off.
func measureReport(ctx context.Context, b *bench) error {
	m, err := b.devicesSystem(ctx, reportDevices, burstProperties)
	if err != nil {
		return err
	}
	c, err := m.connect(ctx, "bench")
	if err != nil {
		return m.down(err)
	}
	for _, part := range []func(context.Context, paho.Client) error{m.singles, m.plainWrites, m.trains, m.bursts, m.cuts} {
		if err := part(ctx, c); err != nil {
			return m.down(err)
		}
	}
	return m.down(nil)
}

// report publishes the next value of a property and waits until the edge has it on its disk.
func (m *devicesSystem) report(ctx context.Context, c paho.Client, device, property int) (begun, taken time.Time, err error) {
	m.value++
	begun = time.Now()
	if err = answered(ctx, publish(c, deviceName(device), propertyName(property), m.value)); err != nil {
		err = fmt.Errorf("report %s: %w", valueName(device, property), err)
	}
	return begun, time.Now(), err
}

// singles reports single values at rest.
func (m *devicesSystem) singles(ctx context.Context, c paho.Client) error {
	round := func() (taken, seen []float64, err error) {
		for i := range reportCount {
			device, property := i%reportDevices, i/reportDevices%burstProperties
			begun, done, err := m.report(ctx, c, device, property)
			if err != nil {
				return nil, nil, err
			}
			at, err := m.shown.saw(ctx, valueName(device, property), m.value, readyTimeout)
			if err != nil {
				return nil, nil, err
			}
			taken, seen = append(taken, milliseconds(done.Sub(begun))), append(seen, milliseconds(at.Sub(begun)))
			if err := wait(ctx, reportGap); err != nil {
				return nil, nil, err
			}
		}
		return taken, seen, nil
	}
	var taken, seen, p90 []float64
	for range m.bench.times(true) {
		t, s, err := round()
		if err != nil {
			return err
		}
		taken, seen = append(taken, t...), append(seen, s...)
		p90 = append(p90, percentile(slices.Sorted(slices.Values(s)), 90))
	}
	if err := m.profile(ctx, m.edge, "reports", func() error { _, _, err := round(); return err }); err != nil {
		return err
	}
	m.bench.figure(Figure{What: "one report: publish to the broker's answer", Unit: "ms", Values: taken, Note: quantiles(taken)})
	m.bench.figure(Figure{What: "one report: publish to a watch of the cluster", Unit: "ms", Limit: atMost(10), Values: seen, Note: quantiles(seen)})
	m.bench.figure(Figure{What: fmt.Sprintf("one report: publish to a watch of the cluster, p90 of %d", reportCount), Unit: "ms", Limit: atMost(15), Values: p90})
	return nil
}

func quantiles(values []float64) string {
	sorted := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s of %d", number(percentile(sorted, 50)), number(percentile(sorted, 90)), number(percentile(sorted, 99)), len(sorted))
}

// plainWrites patches a DeviceStatus of no device, like those of the devices, as somebody beside the API server would: what is
// left of a report's way without Tether.
func (m *devicesSystem) plainWrites(ctx context.Context, _ paho.Client) error {
	const name = "nobody"
	statuses := func(verb string) string { return verb + " a DeviceStatus of no device" }
	s := &v1beta1.DeviceStatus{TypeMeta: typeMeta(v1beta1.DeviceStatusKind)}
	s.Name = name
	if err := m.api.Post().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Body(s).Do(ctx).Error(); err != nil {
		return fmt.Errorf("%s: %w", statuses("make"), err)
	}
	var seen []float64
	for range reportCount {
		m.value++
		patch := fmt.Appendf(nil, `{"status":{"twins":[{"propertyName":"p0","reported":{"value":"%d"}}]}}`, m.value)
		begun := time.Now()
		if err := m.api.Patch(types.MergePatchType).Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Name(name).Body(patch).Do(ctx).Error(); err != nil {
			return fmt.Errorf("%s: %w", statuses("change"), err)
		}
		at, err := m.shown.saw(ctx, valueKey(name, "p0"), m.value, readyTimeout)
		if err != nil {
			return err
		}
		seen = append(seen, milliseconds(at.Sub(begun)))
		if err := wait(ctx, reportGap); err != nil {
			return err
		}
	}
	m.bench.figure(Figure{What: "for comparison: a patch of a DeviceStatus to the same watch", Unit: "ms", Values: seen, Note: quantiles(seen)})
	return nil
}

// trains has one device report one property, faster than the cloud writes.
func (m *devicesSystem) trains(ctx context.Context, c paho.Client) error {
	long := trainTime
	if m.bench.quick {
		long /= 4
	}
	var late, kept []float64
	var tokens []paho.Token
	for range m.bench.times(true) {
		first := time.Now()
		var last time.Time
		tokens = tokens[:0]
		for i := range int(long.Seconds() * trainRate) {
			if err := wait(ctx, time.Until(first.Add(time.Duration(i)*time.Second/trainRate))); err != nil {
				return err
			}
			m.value++
			last = time.Now()
			tokens = append(tokens, publish(c, deviceName(0), propertyName(0), m.value))
		}
		at, err := m.shown.saw(ctx, valueName(0, 0), m.value, readyTimeout)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			if err := answered(ctx, t); err != nil {
				return fmt.Errorf("report %s: %w", valueName(0, 0), err)
			}
		}
		late = append(late, at.Sub(last).Seconds())
		kept = append(kept, float64(m.shown.distinct(valueName(0, 0), first, at))/at.Sub(first).Seconds())
		if err := m.bench.rest(ctx, 5*time.Second); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%d reports a second for %s", trainRate, long)
	m.bench.figure(Figure{What: what + ": last report to its value in the cluster", Unit: "s", Limit: atMost(1.5), Values: late})
	m.bench.figure(Figure{What: what + ": values of them that the cluster shows", Unit: "1/s", Values: kept})
	return nil
}

// bursts has one device report all its properties, one right after the other, and counts what the cluster shows wrong after a
// while.
func (m *devicesSystem) bursts(ctx context.Context, c paho.Client) error {
	wrong := 0
	var late []float64
	for range deviceBursts {
		want := map[string]int{}
		var begun time.Time
		var tokens []paho.Token
		for p := range burstProperties {
			m.value++
			begun = time.Now()
			tokens = append(tokens, publish(c, deviceName(0), propertyName(p), m.value))
			want[valueName(0, p)] = m.value
		}
		for _, t := range tokens {
			if err := answered(ctx, t); err != nil {
				return fmt.Errorf("report a burst: %w", err)
			}
		}
		if err := wait(ctx, time.Until(begun.Add(burstLook))); err != nil {
			return err
		}
		n, err := m.wrong(ctx, deviceName(0), want)
		if err != nil {
			return err
		}
		wrong += n
		at, err := m.shown.sawAll(ctx, want, readyTimeout)
		if err != nil {
			return err
		}
		late = append(late, milliseconds(at.Sub(begun)))
	}
	m.bench.figure(Figure{What: fmt.Sprintf("%d bursts of %d properties: of %d values wrong in the cluster after %s", deviceBursts, burstProperties, deviceBursts*burstProperties, burstLook),
		Limit: atMost(0), Values: []float64{float64(wrong)}})
	m.bench.figure(Figure{What: "a burst: last report to all its values in the cluster", Unit: "ms", Values: late, Note: quantiles(late)})
	return nil
}

// wrong counts the values of a device that the API server has otherwise, or not at all.
func (m *devicesSystem) wrong(ctx context.Context, device string, want map[string]int) (n int, err error) {
	s := &v1beta1.DeviceStatus{}
	if err := m.api.Get().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Name(device).Do(ctx).Into(s); err != nil {
		return 0, fmt.Errorf("read DeviceStatus %s: %w", device, err)
	}
	found := reportedValues(s)
	for name, value := range want {
		if v, ok := found[name]; !ok || v != value {
			n++
		}
	}
	return n, nil
}

// cuts reports while the cable is cut and counts the last values that the cluster never shows once it is whole again.
func (m *devicesSystem) cuts(ctx context.Context, c paho.Client) error {
	var missing, took []float64
	for range m.bench.times(true) {
		if err := m.edge.Cut(); err != nil {
			return err
		}
		if err := until(ctx, poll, readyTimeout, "the edge to notice that it is cut off", func() error {
			st, err := m.edge.Status(ctx)
			if err == nil && st.Link.Connected {
				err = fmt.Errorf("it is connected")
			}
			return err
		}); err != nil {
			return err
		}
		want := map[string]int{}
		for i := range cutChanges {
			p := i % burstProperties
			if _, _, err := m.report(ctx, c, 0, p); err != nil {
				return err
			}
			want[valueName(0, p)] = m.value
		}
		if err := m.edge.Heal(ctx); err != nil {
			return err
		}
		healed := time.Now()
		at, late := m.shown.sawAll(ctx, want, cutPatience)
		if ctx.Err() != nil {
			return late
		}
		n, err := m.wrong(ctx, deviceName(0), want)
		if err != nil {
			return err
		}
		missing = append(missing, float64(n))
		if late == nil {
			took = append(took, at.Sub(healed).Seconds())
		}
	}
	m.bench.figure(Figure{What: fmt.Sprintf("%d reports while cut off: of %d last values, never in the cluster", cutChanges, burstProperties), Limit: atMost(0), Values: missing})
	if len(took) > 0 {
		m.bench.figure(Figure{What: fmt.Sprintf("%d reports while cut off: cable whole to all last values in the cluster", cutChanges), Unit: "s", Values: took})
	}
	return nil
}
