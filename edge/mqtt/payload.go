package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	common "github.com/tether-edge/tether/common/device"
)

// Property is one property of a twin as it is in payloads. Every part is optional.
type Property struct {
	// Expected is the desired value and Actual the reported one.
	Expected *Value `json:"expected,omitempty"`
	Actual   *Value `json:"actual,omitempty"`
	Optional *bool  `json:"optional,omitempty"`
	// Metadata has the property's type; in an update, Deleted asks for the property's removal.
	Metadata        *TypeMetadata `json:"metadata,omitempty"`
	ExpectedVersion *Version      `json:"expected_version,omitempty"`
	ActualVersion   *Version      `json:"actual_version,omitempty"`
}

// Deleted as TypeMetadata.Type of an update removes the property.
const Deleted = "deleted"

// Value is a value and when it was set.
type Value struct {
	Value    *string        `json:"value,omitempty"`
	Metadata *ValueMetadata `json:"metadata,omitempty"`
}

// ValueMetadata says when a value was set, in milliseconds since 1970.
type ValueMetadata struct {
	Timestamp int64 `json:"timestamp,omitempty"`
}

// TypeMetadata is the type of a property's values.
type TypeMetadata struct {
	Type string `json:"type,omitempty"`
}

// Version counts the changes of a value by where they were made.
type Version struct {
	Cloud int64 `json:"cloud"`
	Edge  int64 `json:"edge"`
}

// An Update is what a client wants changed in a twin.
type Update struct {
	// Timestamp is the client's, in milliseconds since 1970; 0 if it said none.
	Timestamp int64
	// Twin has at least one property, and no empty name.
	Twin map[string]Property
}

// Shift is a property before and after a change; Last is nil for a new one, Current for a removed one.
type Shift struct {
	Last    *Property `json:"last"`
	Current *Property `json:"current"`
}

// Info is a device as memberships and states show it.
type Info struct {
	Namespace, Name, Description string
	// State is online, offline, ok, unknown or unhealthy; LastOnline is text.
	State, LastOnline string
	// Twin is in memberships; nil leaves it out.
	Twin map[string]Property
}

type header struct {
	EventID   string `json:"event_id"`
	Timestamp int64  `json:"timestamp"`
}

type (
	updatePayload struct {
		header
		Twin map[string]*Property `json:"twin"`
	}
	statePayload struct {
		header
		State string `json:"state"`
	}
	twinPayload struct {
		header
		Twin map[string]Property `json:"twin"`
	}
	deltaPayload struct {
		header
		Twin  map[string]Property `json:"twin"`
		Delta map[string]string   `json:"delta"`
	}
	documentPayload struct {
		header
		Twin map[string]Shift `json:"twin"`
	}
	updatedPayload struct {
		header
		Attributes map[string]string `json:"attributes"`
	}
	stateResult struct {
		header
		Device stateDevice `json:"device"`
	}
	stateDevice struct {
		Name           string `json:"name"`
		State          string `json:"state"`
		LastOnlineTime string `json:"lastOnlineTime"`
	}
	membersPayload struct {
		header
		Devices []device `json:"devices"`
	}
	changedPayload struct {
		header
		Added   []device `json:"added_devices"`
		Removed []device `json:"removed_devices"`
	}
	errorPayload struct {
		header
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	}
	device struct {
		ID          string              `json:"id"`
		Name        string              `json:"name"`
		Description string              `json:"description,omitempty"`
		State       string              `json:"state,omitempty"`
		LastOnline  string              `json:"last_online,omitempty"`
		Attributes  map[string]string   `json:"attributes,omitempty"`
		Twin        map[string]Property `json:"twin,omitempty"`
	}
)

func devices(infos []Info) []device {
	out := make([]device, 0, len(infos))
	for _, i := range infos {
		out = append(out, device{ID: i.Namespace + "/" + i.Name, Name: i.Name, Description: i.Description, State: i.State,
			LastOnline: i.LastOnline, Twin: i.Twin})
	}
	return out
}

const (
	maxEventID    = 1024
	maxProperties = 1000
)

// decode reads payload into v, whose header is h. An error leaves in h what could be read.
func decode(payload []byte, v any, h *header) error {
	if err := common.CheckJSON(payload); err != nil {
		return fmt.Errorf("the payload: %w", err)
	}
	err := json.Unmarshal(payload, v)
	if len(h.EventID) > maxEventID {
		h.EventID = ""
		return fmt.Errorf("event_id has more than %d bytes", maxEventID)
	}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		// The library names the struct that the fields of all payloads are in.
		return fmt.Errorf("%s: expected %s, found %s", strings.TrimPrefix(wrong.Field, "header."), jsonKind(wrong.Type.Kind()), wrong.Value)
	}
	return err
}

// jsonKind is what JSON calls what Go calls k.
func jsonKind(k reflect.Kind) string {
	switch k {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int64:
		return "integer"
	}
	return "an object"
}

// parseUpdate reads the payload of twin/update.
func parseUpdate(payload []byte) (header, Update, error) {
	var p updatePayload
	if err := decode(payload, &p, &p.header); err != nil {
		return p.header, Update{}, err
	}
	if len(p.Twin) == 0 || len(p.Twin) > maxProperties {
		return p.header, Update{}, fmt.Errorf("twin: expected 1 to %d properties, found %d", maxProperties, len(p.Twin))
	}
	u := Update{Timestamp: p.Timestamp, Twin: make(map[string]Property, len(p.Twin))}
	for name, property := range p.Twin {
		if name == "" || property == nil {
			return p.header, Update{}, fmt.Errorf("twin: property %q: expected a name and an object", name)
		}
		u.Twin[name] = *property
	}
	return p.header, u, nil
}

// parseState reads the payload of state/update.
func parseState(payload []byte) (header, string, error) {
	var p statePayload
	if err := decode(payload, &p, &p.header); err != nil {
		return p.header, "", err
	}
	switch p.State {
	case "online", "offline", "ok", "unknown", "unhealthy":
		return p.header, p.State, nil
	}
	return p.header, "", fmt.Errorf("state: expected online, offline, ok, unknown or unhealthy, found %q", clip(p.State, 64))
}

// parseGet reads the payload of twin/get and membership/get, which may be empty.
func parseGet(payload []byte) (h header, err error) {
	if len(payload) == 0 {
		return h, nil
	}
	err = decode(payload, &h, &h)
	return h, err
}

// clip returns at most the first n bytes of s, in whole characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
