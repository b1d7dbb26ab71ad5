package mapper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// maxMetadata bounds what a mapper says of a desired value that it has seen: what it was told of it, which a call adds to.
const maxMetadata = v1beta1.MaxMetadata + 1

var states = []string{"online", "offline", "ok", "unknown", "unhealthy"}

// ReportDeviceStatus takes what properties of a device have.
func (s *Server) ReportDeviceStatus(ctx context.Context, req *dmi.ReportDeviceStatusRequest) (*dmi.ReportDeviceStatusResponse, error) {
	namespace, name, entry, err := s.find(req.GetDeviceNamespace(), req.GetDeviceName())
	if err != nil {
		return nil, err
	}
	twins, err := s.judge(req.GetReportedDevice().GetTwins(), entry)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.deps.Devices.Report(ctx, namespace, name, twins); err != nil {
		return nil, failure(err)
	}
	return &dmi.ReportDeviceStatusResponse{}, nil
}

// ReportDeviceStates takes whether a device is there and well.
func (s *Server) ReportDeviceStates(ctx context.Context, req *dmi.ReportDeviceStatesRequest) (*dmi.ReportDeviceStatesResponse, error) {
	namespace, name, _, err := s.find(req.GetDeviceNamespace(), req.GetDeviceName())
	if err != nil {
		return nil, err
	}
	state := req.GetState()
	if strings.EqualFold(state, "disconnected") {
		state = "offline" // mappers built on KubeEdge's framework say so
	}
	i := slices.IndexFunc(states, func(s string) bool { return strings.EqualFold(s, state) })
	if i < 0 {
		return nil, status.Errorf(codes.InvalidArgument, "state: expected one of %s, found %.64q", strings.Join(states, ", "), req.GetState())
	}
	if err := s.deps.Devices.ReportState(ctx, namespace, name, states[i]); err != nil {
		return nil, failure(err)
	}
	return &dmi.ReportDeviceStatesResponse{}, nil
}

// find returns the device that a report is of. Mappers that know no namespaces mean the default one.
func (s *Server) find(namespace, name string) (string, string, Entry, error) {
	if namespace == "" {
		namespace = "default"
	}
	err := errors.Join(plainText("deviceName", name, true), plainText("deviceNamespace", namespace, true))
	if err == nil {
		_, _, err = device.ParseID(device.ID(namespace, name))
	}
	if err != nil {
		return "", "", Entry{}, status.Error(codes.InvalidArgument, err.Error())
	}
	entry, ok := s.deps.Devices.Device(namespace, name)
	if !ok || entry.Device == nil {
		return "", "", Entry{}, status.Errorf(codes.NotFound, "this node has no device %s", device.ID(namespace, name))
	}
	return namespace, name, entry, nil
}

// judge returns the twins that the device has. Others are left out, for a property may have been taken away a moment ago; it is
// an error if none is left.
func (s *Server) judge(reported []*dmi.Twin, e Entry) ([]v1beta1.Twin, error) {
	if len(reported) == 0 {
		return nil, errors.New("twins: expected at least one, found none")
	}
	twins := device.TwinsFromDMI(reported)
	empty(twins, reported, e.Model)
	if found := device.JudgeReported(twins); len(found) > 0 {
		_, message := device.Summary(found)
		return nil, errors.New(message)
	}
	own, desired := make(map[string]bool, len(e.Device.Spec.Properties)), 0
	for _, p := range e.Device.Spec.Properties {
		own[p.Name] = true
	}
	for _, t := range twins {
		if t.ObservedDesired != nil {
			desired += len(t.ObservedDesired.Value)
		}
		if err := metadata(t); err != nil {
			return nil, fmt.Errorf("%.64q: %w", t.PropertyName, err)
		}
	}
	if desired > v1beta1.MaxDesiredBytes {
		return nil, fmt.Errorf("expected at most %d bytes of observed desired values together, found %d", v1beta1.MaxDesiredBytes, desired)
	}
	all, first := len(twins), twins[0].PropertyName
	twins = slices.DeleteFunc(twins, func(t v1beta1.Twin) bool { return !own[t.PropertyName] })
	s.metrics.dropped.Add(float64(all - len(twins)))
	if len(twins) == 0 {
		return nil, fmt.Errorf("expected properties that the device has, found %.64q", first)
	}
	return twins, nil
}

// empty takes a reported value that is there and empty for an empty text, where the property can have one. Of a number it says nothing:
// mappers send both values of a twin, also of what they have not read.
func empty(twins []v1beta1.Twin, reported []*dmi.Twin, m *v1beta1.DeviceModel) {
	if m == nil {
		return
	}
	for i := range twins {
		if twins[i].Reported != nil || reported[i].GetReported() == nil {
			continue
		}
		for _, p := range m.Spec.Properties {
			if p.Name == twins[i].PropertyName && (p.Type == v1beta1.String || p.Type == v1beta1.Bytes) {
				twins[i].Reported = &v1beta1.TwinProperty{}
			}
		}
	}
}

func metadata(t v1beta1.Twin) error {
	if t.ObservedDesired != nil && len(t.ObservedDesired.Metadata) > maxMetadata {
		return fmt.Errorf("expected at most %d entries of metadata of observedDesired, found %d", maxMetadata, len(t.ObservedDesired.Metadata))
	}
	if t.Reported == nil {
		return nil
	}
	return device.CheckMetadata(t.Reported.Metadata)
}

// failure is what a mapper hears of an error of the engine: its own code if it has one, else that the mapper may try again.
func failure(err error) error {
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}
