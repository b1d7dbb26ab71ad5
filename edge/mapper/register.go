package mapper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
	"github.com/tether-edge/tether/common/device"
)

// bucket is where Memory has one record a mapper, by protocol.
const bucket = "mappers"

// A record is what is remembered of a mapper, as JSON.
type record struct {
	Protocol   string `json:"protocol"`
	Name       string `json:"name,omitempty"`
	Version    string `json:"version,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	Address    string `json:"address"`
	// Devices are those that the mapper may know, each with the name of its model (namespace/name, both) and, after a space, the mark of the
	// state that it took, and was told nothing else since; Models likewise, without.
	Devices map[string]string `json:"devices,omitempty"`
	Models  []string          `json:"models,omitempty"`
}

// Names are in logs, metrics and lists.
const maxName = 253

func plainText(what, text string, required bool) error {
	switch {
	case text == "" && required:
		return fmt.Errorf("%s: expected a text, found none", what)
	case len(text) > maxName:
		return fmt.Errorf("%s: expected at most %d bytes, found %d", what, maxName, len(text))
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return fmt.Errorf("%s: expected a text without control characters, found %q", what, text)
	}
	return nil
}

// parseRegistration judges what a mapper says of itself.
func parseRegistration(info *dmi.MapperInfo) (record, error) {
	r := record{Protocol: info.GetProtocol(), Name: info.GetName(), Version: info.GetVersion(), APIVersion: info.GetApiVersion()}
	address, err := ParseAddress(info.GetAddress())
	r.Address = address
	return r, errors.Join(plainText("protocol", r.Protocol, true), plainText("name", r.Name, false), plainText("version", r.Version, false),
		plainText("api_version", r.APIVersion, false), err)
}

// parseRecord reads a record of Memory; it is judged as a registration is.
func parseRecord(value []byte) (record, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return r, err
	}
	again, err := parseRegistration(&dmi.MapperInfo{Protocol: r.Protocol, Name: r.Name, Version: r.Version, ApiVersion: r.APIVersion, Address: []byte(r.Address)})
	if err != nil {
		return r, err
	}
	again.Devices = map[string]string{}
	for id, model := range r.Devices {
		if _, _, err := device.ParseID(id); err == nil {
			again.Devices[id] = model
		}
	}
	for _, id := range r.Models {
		if _, _, err := device.ParseID(id); err == nil {
			again.Models = append(again.Models, id)
		}
	}
	return again, nil
}

// MapperRegister makes a mapper known, in place of the one that had its protocol. Nothing is asked of the mapper before the
// answer: those of KubeEdge listen only afterwards, and give up after a second.
func (s *Server) MapperRegister(ctx context.Context, req *dmi.MapperRegisterRequest) (*dmi.MapperRegisterResponse, error) {
	r, err := parseRegistration(req.GetMapper())
	if err == nil && r.Address == s.cfg.Socket {
		err = errors.New("address: expected a socket of the mapper's own, found the edge's")
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	m, err := newMapper(s, r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	response := &dmi.MapperRegisterResponse{}
	if req.GetWithData() {
		m.answer(response)
	}
	if err := s.replace(m); err != nil {
		m.discard()
		if errors.Is(err, errFull) {
			return nil, status.Error(codes.ResourceExhausted, err.Error())
		}
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	// A mapper that was answered must not be forgotten, but it does not wait for a disk that is slow: saving goes on.
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	select {
	case <-m.saved:
	case <-ctx.Done():
		s.deps.Log.Warn("a mapper is not remembered yet", "protocol", r.Protocol)
	}
	s.deps.Log.Info("mapper registered", "protocol", r.Protocol, "name", r.Name, "version", r.Version, "address", r.Address,
		"models", len(response.ModelList), "devices", len(response.DeviceList))
	return response, nil
}

// saveTimeout is less than the second that KubeEdge's mappers wait for the answer.
const saveTimeout = 500 * time.Millisecond

// answerBytes bounds what a registration is answered with: a mapper's gRPC takes 4 MiB unless it says otherwise. What does not
// fit is told by calls.
const answerBytes = 3 << 20

// answer fills in the models and devices of the mapper's protocol, and notes them as told. m was not started.
func (m *mapper) answer(response *dmi.MapperRegisterResponse) {
	room := answerBytes
	for _, e := range m.s.deps.Devices.OfProtocol(m.Protocol) {
		if e.Device == nil || device.Protocol(e.Device, e.Model) != m.Protocol {
			continue
		}
		w, err := wanted(e)
		if err != nil {
			continue // its turn comes, which says so
		}
		size := proto.Size(w.device)
		if m.models[w.modelID] == nil {
			size += proto.Size(w.model)
		}
		if room -= size; room < 0 {
			return
		}
		if m.models[w.modelID] == nil {
			m.models[w.modelID] = &knownModel{told: true, digest: w.modelDigest}
			response.ModelList = append(response.ModelList, w.model)
		}
		m.devices[device.ID(w.device.Namespace, w.device.Name)] = &known{digest: w.digest, mark: w.mark, model: w.modelID, born: w.born}
		response.DeviceList = append(response.DeviceList, w.device)
	}
}

// recall starts the mappers that registered with an earlier process.
func (s *Server) recall(ctx context.Context) error {
	var broken []string
	err := s.deps.Memory.All(ctx, bucket, func(key string, value []byte) error {
		r, err := parseRecord(value)
		if err != nil || r.Protocol != key {
			s.deps.Log.Error("what was remembered of a mapper cannot be read; it has to register again", "protocol", key, "error", err)
			broken = append(broken, key)
			return nil
		}
		m, err := newMapper(s, r)
		if err != nil {
			return err
		}
		for id, value := range r.Devices {
			model, mark, _ := strings.Cut(value, " ")
			m.devices[id] = &known{life: unsure, model: model, mark: mark}
			m.marked[id] = mark != ""
		}
		for _, id := range r.Models {
			m.models[id] = &knownModel{told: true, life: unsure}
		}
		if err := s.replace(m); err != nil {
			m.discard()
			s.deps.Log.Error("a mapper is not called again; it has to register", "protocol", key, "error", err)
		}
		return nil
	})
	if err == nil && len(broken) > 0 {
		err = s.deps.Memory.Delete(ctx, bucket, broken...)
	}
	return err
}
