package mapper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// said is what the edge is told against a property: why the device does not have what is desired, and why what it has is not reported.
type said struct{ refused, failed string }

// maxMessage bounds one report, in bytes: the edge takes 1 MiB.
const maxMessage = 512 << 10

// offerAgain is when a value that the edge did not take is offered again: there may be room for it then.
const offerAgain = time.Minute

// reportable says why no report can hold a value; nil where one can.
func reportable(text string) error {
	if len(text) > v1beta1.MaxReportedBytes {
		return fmt.Errorf("expected a value of at most %d bytes, found %d", v1beta1.MaxReportedBytes, len(text))
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("expected text in UTF-8, found %.64q", text)
	}
	return nil
}

// says is what the edge is to be told against the property.
func (v *value) says() said {
	failed := v.unread
	if failed == "" {
		failed = v.barred
	}
	return said{refused: v.refused, failed: failed}
}

// report sends what changed or is due, together, and the state. What the edge could not take is sent later, if it is still so; what it
// will not take costs the property alone.
func (w *worker) report(now time.Time) {
	if w.unsent && now.Before(w.sendAt) {
		return
	}
	ctx, cancel := context.WithTimeout(w.ctx, w.h.Timeout)
	defer cancel()
	barred, err := w.send(ctx, now, w.due(now))
	if barred && err == nil {
		_, err = w.send(ctx, now, w.due(now)) // why they are not reported
	}
	if w.driver != nil {
		w.become(w.health())
	}
	if e := w.reportState(ctx, now); err == nil {
		err = e
	}
	if err != nil {
		if !w.unsent && w.ctx.Err() == nil {
			w.log.Warn("cannot report to the edge; trying again", "error", err)
		}
		w.sendAt = time.Now().Add(time.Second)
	}
	w.unsent = err != nil
}

// health is the state of a device that is there.
func (w *worker) health() string {
	for _, v := range w.values {
		if v.failed || v.says().failed != "" {
			return "unhealthy"
		}
	}
	return "online"
}

func (w *worker) reportState(ctx context.Context, now time.Time) error {
	if w.stateDue.IsZero() || time.Now().Before(w.stateDue) {
		return nil
	}
	_, err := w.h.edge.ReportDeviceStates(ctx, &dmi.ReportDeviceStatesRequest{DeviceName: w.now.Name, DeviceNamespace: w.now.Namespace, State: w.state})
	if err != nil {
		return err
	}
	w.stateDue = time.Time{}
	if w.now.stateCycle > 0 {
		w.stateDue = now.Add(max(w.now.stateCycle, minCollect))
	}
	return nil
}

// send reports twins. Where the edge refuses them it sends the halves, until it is plain which one is refused: barred says that there is
// one.
func (w *worker) send(ctx context.Context, now time.Time, twins []*dmi.Twin) (barred bool, err error) {
	if len(twins) == 0 {
		return false, nil
	}
	request := &dmi.ReportDeviceStatusRequest{DeviceName: w.now.Name, DeviceNamespace: w.now.Namespace, ReportedDevice: &dmi.DeviceStatus{Twins: twins}}
	split := len(twins) > 1 && proto.Size(request) > maxMessage
	if !split {
		_, err = w.h.edge.ReportDeviceStatus(ctx, request)
		refused := status.Code(err) == codes.InvalidArgument
		if err == nil || refused && len(twins) == 1 {
			return w.answered(now, twins, err), nil
		}
		if !refused {
			return false, err
		}
	}
	half := len(twins) / 2
	first, err := w.send(ctx, now, twins[:half])
	if err != nil {
		return first, err
	}
	second, err := w.send(ctx, now, twins[half:])
	return first || second, err
}

// answered notes that the edge has twins, or why it refuses the one; barred says that it is to be told why that one is not reported.
func (w *worker) answered(now time.Time, twins []*dmi.Twin, refusal error) (barred bool) {
	for _, t := range twins {
		name := t.GetPropertyName()
		v := w.values[name]
		if refusal != nil && t.GetReported() != nil {
			v.barred, v.offer = spoken(errors.New(status.Convert(refusal).Message())), now.Add(offerAgain)
			w.log.Warn("the edge does not take what a property has", "property", name, "error", v.barred)
			barred = true
			continue
		}
		v.sent, v.reported, v.observed, v.told = true, now, w.wantedOf(name), v.says()
	}
	return barred
}

func (w *worker) wantedOf(name string) wanted {
	for i := range w.now.Properties {
		if w.now.Properties[i].Name == name {
			return w.now.Properties[i].wanted()
		}
	}
	return wanted{}
}

// due returns the twins to report. It notes all twins for GetDevice.
func (w *worker) due(now time.Time) (twins []*dmi.Twin) {
	var all []*dmi.Twin
	for i := range w.now.Properties {
		p := &w.now.Properties[i]
		v := w.values[p.Name]
		if v.barred != "" && !now.Before(v.offer) {
			v.barred, v.sent = "", false
		}
		says := v.says()
		if !v.known && says.failed == "" {
			continue
		}
		twin := v.twin(p, now)
		all = append(all, twin)
		if !v.sent || v.observed != p.wanted() || v.told != says || p.Report > 0 && now.Sub(v.reported) >= p.Report {
			twins = append(twins, twin)
		}
	}
	w.mu.Lock()
	w.known = all
	w.mu.Unlock()
	return twins
}

// twin is what the edge is told of a property: what the device has, or why that cannot be said.
func (v *value) twin(p *Property, now time.Time) *dmi.Twin {
	says := v.says()
	if says.failed != "" {
		return &dmi.Twin{PropertyName: p.Name, ObservedDesired: &dmi.TwinProperty{Metadata: map[string]string{device.MetadataError: says.failed}}}
	}
	stamp := strconv.FormatInt(now.UnixMilli(), 10)
	twin := &dmi.Twin{PropertyName: p.Name, Reported: &dmi.TwinProperty{Value: v.text, Metadata: map[string]string{"timestamp": stamp, "type": p.Type}}}
	if p.Desired == "" {
		return twin
	}
	twin.ObservedDesired = &dmi.TwinProperty{Value: p.Desired, Metadata: p.desired.GetMetadata()}
	if says.refused != "" {
		metadata := maps.Clone(p.desired.GetMetadata())
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[device.MetadataError] = says.refused
		twin.ObservedDesired.Metadata = metadata
	}
	return twin
}
