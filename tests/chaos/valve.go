package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/mapper"
)

const (
	// turnEvery is the pause between two calls of the valve's method.
	turnEvery = 500 * time.Millisecond
	valveName = "valve"
)

// valve is a device whose method somebody calls all the time, each time with the next number and a key of its own, until the call is answered
// well. Its mapper is here, and knows what was written: each number that was answered well, once, and none after a later one.
type valve struct {
	m      *meters
	client *http.Client

	mu sync.Mutex
	// position is what was written last. next is the number that is called, done the last that was answered well.
	position, next, done int
	still                bool
	// forgiven: the edge's memory was damaged, and it may once desire what it desired before.
	forgiven bool
	calls    int
	faults   []error
}

func newValve(m *meters) *valve {
	return &valve{m: m, client: &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: m.w.edge.DialContext}}}
}

func (v *valve) deploy(ctx context.Context) error {
	model := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1beta1.GroupVersion.String(), "kind": "DeviceModel", "metadata": map[string]any{"name": valveName},
		"spec": map[string]any{"protocol": "journal", "properties": []any{map[string]any{"name": "position", "type": "INT", "accessMode": "ReadWrite"}}}}}
	device := &unstructured.Unstructured{Object: map[string]any{"apiVersion": v1beta1.GroupVersion.String(), "kind": "Device", "metadata": map[string]any{"name": valveName},
		"spec": map[string]any{"deviceModelRef": map[string]any{"name": valveName}, "nodeName": edgeName, "protocol": map[string]any{"protocolName": "journal"},
			"methods": []any{map[string]any{"name": "turn", "propertyNames": []any{"position"}}},
			"properties": []any{map[string]any{"name": "position", "collectCycle": int64(200), "reportCycle": int64(200), "reportToCloud": true,
				"visitors": map[string]any{"protocolName": "journal", "configData": map[string]any{}}}}}}}
	_, err1 := v.m.models.Namespace(namespace).Create(ctx, model, metav1.CreateOptions{})
	_, err2 := v.m.devices.Namespace(namespace).Create(ctx, device, metav1.CreateOptions{})
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("deploy the valve: %w", err)
	}
	return nil
}

// serve is its mapper, until ctx ends.
func (v *valve) serve(ctx context.Context) {
	socket := v.m.w.edge.MapperSocket()
	err := mapper.Run(ctx, mapper.Options{Protocol: "journal", EdgeSocket: socket, Socket: filepath.Join(filepath.Dir(socket), "journal.sock"), RetryMax: 2 * time.Second,
		Open: func(context.Context, mapper.Device) (mapper.Driver, error) { return v, nil }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		v.fault("the valve's mapper: %w", err)
	}
}

// Read implements mapper.Driver.
func (v *valve) Read(context.Context, mapper.Property) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strconv.Itoa(v.position), nil
}

// Write implements mapper.Driver.
func (v *valve) Write(_ context.Context, _ mapper.Property, value string) error {
	n, err := strconv.Atoi(value)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil || n < 1 || n > v.next:
		v.faults = append(v.faults, fmt.Errorf("the valve was turned to %q, and nobody had asked for more than %d", value, v.next))
	case n <= v.position && !v.forgiven:
		v.faults = append(v.faults, fmt.Errorf("the valve was turned to %d after %d: a call was made twice, or in the wrong order", n, v.position))
	}
	if err == nil {
		v.position = n
	}
	return err
}

// Close implements mapper.Driver.
func (v *valve) Close() error { return nil }

// call calls its method until ctx ends.
func (v *valve) call(ctx context.Context) {
	tick := time.NewTicker(turnEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		v.mu.Lock()
		if !v.still && v.next == v.done {
			v.next++
		}
		n, idle := v.next, v.next == v.done
		v.mu.Unlock()
		if !idle {
			v.turn(ctx, n)
		}
	}
}

// turn calls once. The edge is one of the things that fail.
func (v *valve) turn(ctx context.Context, n int) {
	url := fmt.Sprintf("http://127.0.0.1:9060/v1/devices/%s/%s/methods/turn?timeout=30s", namespace, valveName)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(fmt.Appendf(nil, `{"position":%d}`, n)))
	if err != nil {
		v.fault("call the valve: %w", err)
		return
	}
	request.Header.Set("Idempotency-Key", fmt.Sprint("turn-", n))
	response, err := v.client.Do(request)
	if err != nil {
		return
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch code := response.StatusCode; {
	case err != nil || code == http.StatusNotFound || code == http.StatusTooManyRequests || code >= http.StatusInternalServerError:
	case code != http.StatusOK:
		v.fault("the valve's call %d was answered with %d: %s", n, code, body)
	default:
		v.mu.Lock()
		v.done, v.calls = n, v.calls+1
		at, forgiven := v.position, v.forgiven
		v.mu.Unlock()
		if at != n && !forgiven {
			v.fault("the valve's call %d was answered well, and it stands at %d", n, at)
		}
	}
}

func (v *valve) fault(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, fmt.Errorf(format, args...))
}

// rest lets nobody call it anew, or lets them go on.
func (v *valve) rest(still bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.still = still
}

// forgive: what the edge remembers of calls may be gone.
func (v *valve) forgive() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgiven = true
}

// settled returns nil when all calls were answered, and the cluster shows where the valve stands.
func (v *valve) settled(ctx context.Context) error {
	v.mu.Lock()
	next, done, position := v.next, v.done, v.position
	v.mu.Unlock()
	if next != done || position != done {
		return fmt.Errorf("of the valve's calls %d of %d are answered, and it stands at %d", done, next, position)
	}
	o, err := v.m.statuses.Namespace(namespace).Get(ctx, valveName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if shown, _ := reported(o); shown != strconv.Itoa(position) {
		return fmt.Errorf("the valve is shown as %q, it stands at %d", shown, position)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgiven = false
	return nil
}

// wrong returns what became of calls and should not have.
func (v *valve) wrong() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.faults...)
}
