package mapper

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// put gives a device to its worker, which is started if there is none. anew says that the edge may know nothing of what was reported.
// mu is held.
func (h *host) put(d *dmi.Device, anew bool) error {
	model := h.models[device.ID(d.GetNamespace(), d.GetSpec().GetDeviceModelReference())]
	if model == nil {
		return status.Errorf(codes.FailedPrecondition, "its DeviceModel %q was not told", d.GetSpec().GetDeviceModelReference())
	}
	spec, err := fromDMI(d, model)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	id := device.ID(spec.Namespace, spec.Name)
	w := h.devices[id]
	if w == nil {
		w = newWorker(h, id)
		h.devices[id] = w
		h.all.Go(w.run)
	}
	w.set(spec, anew)
	return nil
}

// lock takes mu for a call of the edge. One that came before the mapper had the answer to its registration is refused, and made
// again by the edge if it still holds: it may be of the registration before, or newer than the answer, which replaces what the mapper has.
func (h *host) lock() error {
	turn := h.turn.Load()
	h.mu.Lock()
	if turn%2 == 1 || turn != h.turn.Load() {
		h.mu.Unlock()
		return status.Error(codes.Unavailable, "the mapper is not registered yet: call again")
	}
	return nil
}

// RegisterDevice gives the mapper a device, or the present state of one that it has.
func (h *host) RegisterDevice(_ context.Context, req *dmi.RegisterDeviceRequest) (*dmi.RegisterDeviceResponse, error) {
	if err := h.lock(); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	d := req.GetDevice()
	if d.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "expected a device with a name")
	}
	if err := h.put(d, false); err != nil {
		return nil, err
	}
	return &dmi.RegisterDeviceResponse{DeviceName: d.GetName(), DeviceNamespace: d.GetNamespace()}, nil
}

// UpdateDevice is RegisterDevice by another name.
func (h *host) UpdateDevice(ctx context.Context, req *dmi.UpdateDeviceRequest) (*dmi.UpdateDeviceResponse, error) {
	_, err := h.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: req.GetDevice()})
	return &dmi.UpdateDeviceResponse{}, err
}

// RemoveDevice ends a device; its driver is closed soon after.
func (h *host) RemoveDevice(_ context.Context, req *dmi.RemoveDeviceRequest) (*dmi.RemoveDeviceResponse, error) {
	if err := h.lock(); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	id := device.ID(req.GetDeviceNamespace(), req.GetDeviceName())
	w := h.devices[id]
	if w == nil {
		return nil, status.Errorf(codes.NotFound, "device %s not found", id)
	}
	w.stop()
	delete(h.devices, id)
	return &dmi.RemoveDeviceResponse{}, nil
}

// GetDevice returns what a device reported last.
func (h *host) GetDevice(_ context.Context, req *dmi.GetDeviceRequest) (*dmi.GetDeviceResponse, error) {
	if err := h.lock(); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	id := device.ID(req.GetDeviceNamespace(), req.GetDeviceName())
	w := h.devices[id]
	if w == nil {
		return nil, status.Errorf(codes.NotFound, "device %s not found", id)
	}
	return &dmi.GetDeviceResponse{Device: &dmi.Device{Name: req.GetDeviceName(), Namespace: req.GetDeviceNamespace(), Status: &dmi.DeviceStatus{Twins: w.last()}}}, nil
}

// CreateDeviceModel takes a model; devices of it are told after it.
func (h *host) CreateDeviceModel(_ context.Context, req *dmi.CreateDeviceModelRequest) (*dmi.CreateDeviceModelResponse, error) {
	m := req.GetModel()
	if m.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "expected a model with a name")
	}
	if err := h.lock(); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	h.models[device.ID(m.GetNamespace(), m.GetName())] = m
	return &dmi.CreateDeviceModelResponse{DeviceModelName: m.GetName(), DeviceModelNamespace: m.GetNamespace()}, nil
}

// UpdateDeviceModel is CreateDeviceModel by another name. The edge updates the model's devices after it.
func (h *host) UpdateDeviceModel(ctx context.Context, req *dmi.UpdateDeviceModelRequest) (*dmi.UpdateDeviceModelResponse, error) {
	_, err := h.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: req.GetModel()})
	return &dmi.UpdateDeviceModelResponse{}, err
}

// RemoveDeviceModel forgets a model.
func (h *host) RemoveDeviceModel(_ context.Context, req *dmi.RemoveDeviceModelRequest) (*dmi.RemoveDeviceModelResponse, error) {
	if err := h.lock(); err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	delete(h.models, device.ID(req.GetModelNamespace(), req.GetModelName()))
	return &dmi.RemoveDeviceModelResponse{}, nil
}
