package mqtt

import "strings"

// kind is what a topic asks for.
type kind int

// The kinds of requests.
const (
	twinUpdate kind = iota
	twinGet
	stateUpdate
	membershipGet
	upload
)

func (k kind) String() string {
	return [...]string{"twin/update", "twin/get", "state/update", "membership/get", "upload"}[k]
}

const (
	// hw begins every topic that is the edge's own.
	hw           = "$hw/"
	devicePrefix = "$hw/events/device/"
	nodePrefix   = "$hw/events/node/"
	uploadPrefix = "$hw/events/upload/"
	uploadTopic  = "SYS/dis/upload_records"
	result       = "/result"
	// maxName is the length of the longest name of a Kubernetes object.
	maxName = 253
)

// A request is a topic that clients publish to and the edge answers. The name is the device's, or the node's of membershipGet.
type request struct {
	kind            kind
	namespace, name string
}

// parseTopic takes topic apart. It reports false if it is no request.
func parseTopic(topic string) (request, bool) {
	if rest, ok := strings.CutPrefix(topic, devicePrefix); ok {
		parts := strings.SplitN(rest, "/", 4)
		if len(parts) != 4 || parts[0] == "" || parts[1] == "" {
			return request{}, false
		}
		for _, k := range []kind{twinUpdate, twinGet, stateUpdate} {
			if parts[2]+"/"+parts[3] == k.String() {
				return request{k, parts[0], parts[1]}, true
			}
		}
		return request{}, false
	}
	if rest, ok := strings.CutPrefix(topic, nodePrefix); ok {
		name, rest, _ := strings.Cut(rest, "/")
		return request{kind: membershipGet, name: name}, name != "" && rest == membershipGet.String()
	}
	return request{kind: upload}, topic == uploadTopic || strings.HasPrefix(topic, uploadPrefix)
}

// requestFilters are the filters that together match what parseTopic takes, and little else; of memberships those that match node.
func requestFilters(node string) []string {
	return []string{
		devicePrefix + "+/+/twin/update", devicePrefix + "+/+/twin/get", devicePrefix + "+/+/state/update",
		nodePrefix + node + "/membership/get", uploadPrefix + "#", uploadTopic,
	}
}

// reserved reports whether only the edge itself may publish to topic: a client that did could pass for the edge.
func reserved(topic string) bool {
	if !strings.HasPrefix(topic, hw) {
		return false
	}
	_, ok := parseTopic(topic)
	return !ok
}

func deviceTopic(namespace, name, rest string) string {
	return devicePrefix + namespace + "/" + name + "/" + rest
}

func membershipTopic(node, rest string) string { return nodePrefix + node + "/membership/" + rest }

// validFilter reports whether f is a topic filter as MQTT 3.1.1 section 4.7 has it.
func validFilter(f string) bool {
	if f == "" || strings.ContainsRune(f, 0) {
		return false
	}
	levels := strings.Split(f, "/")
	for i, l := range levels {
		if len(l) > 1 && strings.ContainsAny(l, "+#") || l == "#" && i != len(levels)-1 {
			return false
		}
	}
	return true
}

// unshared returns the filter inside $share/GROUP/FILTER, and any other as it is.
func unshared(filter string) string {
	if len(filter) < 7 || !strings.EqualFold(filter[:7], "$share/") {
		return filter
	}
	_, inner, _ := strings.Cut(filter[7:], "/")
	return inner
}

// covers reports whether every topic that matches filter (or is filter) matches by. As in MQTT, a wildcard at the
// beginning takes no level that begins with $.
func covers(by, filter string) bool {
	if strings.HasPrefix(filter, "$") != strings.HasPrefix(by, "$") && (strings.HasPrefix(by, "+") || strings.HasPrefix(by, "#")) {
		return false
	}
	b, f := strings.Split(by, "/"), strings.Split(filter, "/")
	for i, level := range b {
		switch {
		case level == "#":
			return true
		case i >= len(f) || f[i] == "#":
			return false
		case level != "+" && level != f[i]:
			return false
		}
	}
	return len(b) == len(f)
}
