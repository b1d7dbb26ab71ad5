package mapper

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/backoff"
	"github.com/tether-edge/tether/common/device"
)

// modelKey marks a model's name in the queue; no name of a device has a space.
const modelKey = "model "

// errAway says that a mapper is not connected. All is tried when it is.
var errAway = errors.New("the mapper is away")

func (m *mapper) work(ctx context.Context) {
	for {
		key, end := m.queue.Get()
		if end {
			return
		}
		m.turn(ctx, key)
		m.queue.Done(key)
	}
}

// turn makes the mapper know what it should of one device or model, and tries again later if that fails.
func (m *mapper) turn(ctx context.Context, key string) {
	model, isModel := strings.CutPrefix(key, modelKey)
	ours, err := false, error(nil)
	if isModel {
		err = m.removeModel(ctx, model)
	} else {
		ours, err = m.tell(ctx, key)
	}
	if ctx.Err() != nil || errors.Is(err, errAway) {
		return
	}
	var unfit unfitError
	if err == nil || errors.As(err, &unfit) {
		m.mu.Lock()
		delete(m.retries, key)
		m.mu.Unlock()
	} else {
		m.retry(key, err)
	}
	if !isModel {
		m.sayTold(key, ours, err)
	}
}

func (m *mapper) retry(key string, err error) {
	m.mu.Lock()
	b := m.retries[key]
	if b == nil {
		b = backoff.New(backoff.Config{Base: m.s.cfg.RetryBase, Max: m.s.cfg.RetryMax})
		m.retries[key] = b
	}
	wait, tries := b.Next(), b.Tries()
	m.mu.Unlock()
	m.s.metrics.retries.WithLabelValues(m.Protocol).Inc()
	if tries == 1 {
		m.log.Warn("cannot tell a mapper; trying again", "of", key, "error", err)
	}
	// Never at once: a draw of zero would spin.
	m.queue.AddAfter(key, max(wait, m.s.cfg.RetryBase/4))
}

// sayTold calls Told where that changed. Of a device that cannot work as it is the mapper is told nothing, and so refuses nothing.
func (m *mapper) sayTold(id string, ours bool, err error) {
	if unfit := (unfitError{}); errors.As(err, &unfit) {
		err = nil
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	m.mu.Lock()
	last, was := m.told[id]
	if ours {
		m.told[id] = text
	} else {
		delete(m.told, id)
	}
	m.mu.Unlock()
	if !ours || was && last == text {
		return
	}
	if namespace, name, bad := device.ParseID(id); bad == nil {
		m.s.deps.Told(namespace, name, err)
	}
}

// unfitError says that a device cannot work as it is: nothing but a change of it helps.
type unfitError struct{ error }

// tell makes the mapper know what it should of a device; ours says whether the device is of the mapper's protocol.
func (m *mapper) tell(ctx context.Context, id string) (ours bool, err error) {
	namespace, name, err := device.ParseID(id)
	if err != nil {
		return false, unfitError{err}
	}
	e, ok := m.s.deps.Devices.Device(namespace, name)
	ours = ok && e.Device != nil && device.Protocol(e.Device, e.Model) == m.Protocol
	m.mu.Lock()
	has, life, ready := m.devices[id], m.life, m.ready
	m.mu.Unlock()
	if !ours && has == nil {
		return false, nil
	}
	if !ready {
		return ours, errAway
	}
	var w want
	if ours {
		var unfit error
		if w, unfit = wanted(e); unfit == nil {
			if has != nil && has.born != 0 && has.born != w.born {
				// Its values and state were of another device, and it would say only what changes.
				if err := m.remove(ctx, namespace, name, has, life); err != nil {
					return true, err
				}
				has = nil
			}
			return true, m.give(ctx, id, w, has, life)
		}
		err = unfitError{unfit}
	}
	if has != nil {
		if failed := m.remove(ctx, namespace, name, has, life); failed != nil {
			return ours, failed
		}
	}
	return ours, err
}

// give tells of a device that the mapper shall have: of its model first.
func (m *mapper) give(ctx context.Context, id string, w want, has *known, life int64) error {
	same := has != nil && has.life == life && has.digest == w.digest
	model := m.hold(w.modelID)
	err := m.tellModel(ctx, model, w, life)
	if err == nil && !same {
		// Noted before the call, since the mapper may know the device though its answer is lost; and while the model is held, since
		// it must not be removed before its device comes.
		m.note(id, &known{life: unsure, model: w.modelID, born: w.born})
	}
	m.release(w.modelID, model)
	if err != nil {
		return err
	}
	if same {
		m.s.deps.Given(w.device)
		return nil
	}
	current := has != nil && (has.digest == w.digest || has.mark == w.mark)
	update := has != nil && !current
	if !current {
		m.unmark(ctx, id)
	}
	if has == nil || has.life != life {
		err := m.call(ctx, "RegisterDevice", func(ctx context.Context) error {
			_, err := m.api.RegisterDevice(ctx, &dmi.RegisterDeviceRequest{Device: w.device})
			return err
		})
		if status.Code(err) == codes.AlreadyExists {
			update, err = !current, nil
		}
		if err != nil {
			m.refused(id, w.modelID, has, err)
			return err
		}
		// One that had no device of the name has this one now.
		has = &known{life: unsure, model: w.modelID, born: w.born}
	}
	if update {
		// Those of KubeEdge take a second registration for no news.
		if err := m.call(ctx, "UpdateDevice", func(ctx context.Context) error {
			_, err := m.api.UpdateDevice(ctx, &dmi.UpdateDeviceRequest{Device: w.device})
			return err
		}); err != nil {
			m.refused(id, w.modelID, has, err)
			return err
		}
	}
	m.note(id, &known{life: life, digest: w.digest, mark: w.mark, model: w.modelID, born: w.born})
	m.s.deps.Given(w.device)
	if has != nil && (has.life != life || has.model != w.modelID) {
		m.sweep()
	}
	return nil
}

// refused notes what the mapper knows after it said no to a device: what it knew before, nothing if that is nil. It may lack the model: KubeEdge's
// keep those that a registration brought under another name than they look for later. So it is told of that again.
func (m *mapper) refused(id, modelID string, before *known, err error) {
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable, codes.Canceled:
		return // nobody knows
	}
	if errors.Is(err, errAway) {
		return
	}
	m.note(id, before)
	m.mu.Lock()
	defer m.mu.Unlock()
	if model := m.models[modelID]; model != nil {
		model.life = unsure
	}
}

// note sets what the mapper knows of a device, nil for nothing.
func (m *mapper) note(id string, k *known) {
	m.mu.Lock()
	was := m.devices[id]
	if k == nil {
		delete(m.devices, id)
	} else {
		m.devices[id] = k
	}
	m.mu.Unlock()
	switch {
	case (was == nil) != (k == nil), k != nil && was.model != k.model:
		m.changed()
	case k != nil && k.mark != "" && k.mark != was.mark:
		m.markedAnew()
	}
}

// remove takes a device away. Where it is not certain that the mapper has it, the mapper is asked first: KubeEdge's ends with a
// nil pointer when it is to remove a device a second time.
func (m *mapper) remove(ctx context.Context, namespace, name string, has *known, life int64) error {
	id := device.ID(namespace, name)
	gone := false
	if has.life != life {
		err := m.call(ctx, "GetDevice", func(ctx context.Context) error {
			_, err := m.api.GetDevice(ctx, &dmi.GetDeviceRequest{DeviceName: name, DeviceNamespace: namespace})
			return err
		})
		if errors.Is(err, errAway) || status.Code(err) == codes.DeadlineExceeded {
			return err
		}
		gone = missing(err)
	}
	if !gone {
		m.note(id, &known{life: unsure, model: has.model, born: has.born})
		err := m.call(ctx, "RemoveDevice", func(ctx context.Context) error {
			_, err := m.api.RemoveDevice(ctx, &dmi.RemoveDeviceRequest{DeviceName: name, DeviceNamespace: namespace})
			return err
		})
		if err != nil && !missing(err) {
			return err
		}
	}
	m.note(id, nil)
	m.sweep()
	return nil
}

// missing says that the mapper does not have what it was asked for. Those of KubeEdge say so in words only.
func missing(err error) bool {
	return status.Code(err) == codes.NotFound || status.Code(err) == codes.Unknown && (strings.Contains(status.Convert(err).Message(), "not found") || strings.Contains(status.Convert(err).Message(), "not find"))
}

// sweep puts the models into the queue that no device is of any more.
func (m *mapper) sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := make(map[string]bool, len(m.models))
	for _, d := range m.devices {
		used[d.model] = true
	}
	for id, model := range m.models {
		if model.told && !used[id] {
			m.queue.Add(modelKey + id)
		}
	}
}

// hold returns the model's state, for as long as it is not released; nobody else tells the mapper of the model meanwhile.
func (m *mapper) hold(id string) *knownModel {
	m.mu.Lock()
	model := m.models[id]
	if model == nil {
		model = &knownModel{}
		m.models[id] = model
	}
	model.users++
	m.mu.Unlock()
	model.calling.Lock()
	return model
}

func (m *mapper) release(id string, model *knownModel) {
	model.calling.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if model.users--; model.users == 0 && !model.told {
		delete(m.models, id)
	}
}

// tellModel makes the mapper know the model, which is held.
func (m *mapper) tellModel(ctx context.Context, model *knownModel, w want, life int64) error {
	m.mu.Lock()
	told, sure, same := model.told, model.life == life, model.digest == w.modelDigest
	m.mu.Unlock()
	if told && sure && same {
		return nil
	}
	m.noteModel(model, true, unsure, digest{})
	create := !told || !sure
	if create {
		err := m.call(ctx, "CreateDeviceModel", func(ctx context.Context) error {
			_, err := m.api.CreateDeviceModel(ctx, &dmi.CreateDeviceModelRequest{Model: w.model})
			return err
		})
		if status.Code(err) == codes.AlreadyExists {
			create, err = false, nil
		}
		if err != nil {
			return err
		}
	}
	if !create {
		if err := m.call(ctx, "UpdateDeviceModel", func(ctx context.Context) error {
			_, err := m.api.UpdateDeviceModel(ctx, &dmi.UpdateDeviceModelRequest{Model: w.model})
			return err
		}); err != nil {
			return err
		}
	}
	m.noteModel(model, true, life, w.modelDigest)
	return nil
}

func (m *mapper) noteModel(model *knownModel, told bool, life int64, d digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	model.told, model.life, model.digest = told, life, d
}

// removeModel takes a model away that no device is of any more.
func (m *mapper) removeModel(ctx context.Context, id string) error {
	namespace, name, err := device.ParseID(id)
	if err != nil {
		return nil // nothing that a mapper could be told
	}
	model := m.hold(id)
	defer m.release(id, model)
	m.mu.Lock()
	used, ready := !model.told, m.ready
	for _, d := range m.devices {
		used = used || d.model == id
	}
	m.mu.Unlock()
	if used {
		return nil
	}
	if !ready {
		return errAway
	}
	m.noteModel(model, true, unsure, digest{})
	err = m.call(ctx, "RemoveDeviceModel", func(ctx context.Context) error {
		_, err := m.api.RemoveDeviceModel(ctx, &dmi.RemoveDeviceModelRequest{ModelName: name, ModelNamespace: namespace})
		return err
	})
	if err != nil && !missing(err) {
		return err
	}
	m.noteModel(model, false, unsure, digest{})
	m.changed()
	return nil
}

// call makes one call, bounded and counted. The error names it.
func (m *mapper) call(ctx context.Context, method string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, m.s.cfg.CallTimeout)
	defer cancel()
	begun := time.Now()
	err := f(ctx)
	m.s.metrics.called(m.Protocol, method, time.Since(begun), err)
	if err = m.answered(err); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}
