package v1alpha1

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"
)

// DecodeMQTTUsers reads what a Secret has below MQTTUsersKey: a list of MQTTUsers, in YAML or JSON. Unknown fields are errors.
// The error names every fault and repeats nothing of the content, which is secret.
func DecodeMQTTUsers(data []byte) ([]MQTTUser, error) {
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, errors.New("expected YAML")
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		return nil, errors.New("expected YAML")
	}
	if _, ok := tree.([]any); !ok {
		return nil, errors.New("expected a list of users, each with name, passwordHash and acl")
	}
	users := []MQTTUser{}
	var f faults
	f.assign("users", reflect.ValueOf(&users).Elem(), tree)
	var all []error
	for _, fault := range f {
		said, _, _ := strings.Cut(fault.Message, ", found ")
		all = append(all, fmt.Errorf("%s: %s", fault.Path, said))
	}
	return users, errors.Join(all...)
}
