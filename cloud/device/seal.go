package device

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// AnnotationReport on a DeviceStatus seals what the node reported: how many reports CloudCores have written of the device, and a
// fingerprint of the last. Where it does not fit what is there, or counts less than was there, somebody else changed it.
const AnnotationReport = "tether.io/report"

// A seal is what AnnotationReport says.
type seal struct {
	count uint64
	sum   string
}

func (s seal) String() string { return strconv.FormatUint(s.count, 10) + " " + s.sum }

// sealIn is what is written in s; the zero seal if there is none.
func sealIn(s *v1beta1.DeviceStatus) (found seal) {
	count, sum, _ := strings.Cut(s.Annotations[AnnotationReport], " ")
	n, err := strconv.ParseUint(count, 10, 64)
	if err != nil {
		return seal{}
	}
	return seal{n, sum}
}

// saidIn is what the node reported, as it is in s.
func saidIn(s *v1beta1.DeviceStatus) Report {
	r := Report{Twins: s.Status.Twins, State: s.Status.State, LastOnlineTime: s.Status.LastOnlineTime}
	for _, t := range edgeConditions {
		if i := indexOf(s.Status.Conditions, t); i >= 0 {
			r.Conditions = append(r.Conditions, s.Status.Conditions[i])
		}
	}
	return r
}

// sumOf is the fingerprint of what the node reported.
func sumOf(s *v1beta1.DeviceStatus) (string, error) {
	raw, err := encodeSaid(s)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return base64.RawURLEncoding.EncodeToString(sum[:16]), nil
}

// encodeSaid is what the node reported, and which node, without the times that CloudCore sets.
func encodeSaid(s *v1beta1.DeviceStatus) ([]byte, error) {
	said := saidIn(s)
	for i := range said.Conditions {
		said.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	raw, err := json.Marshal(struct {
		Node string
		Report
	}{reporter(s), said})
	if err != nil {
		return nil, fmt.Errorf("encode what was reported: %w", err)
	}
	return raw, nil
}

// put seals what was reported in s, where it is other than current has it sealed; after is a count that it is beyond.
func (after seal) put(s, current *v1beta1.DeviceStatus) error {
	sum, err := sumOf(s)
	if err != nil {
		return err
	}
	last := seal{}
	if current != nil {
		last = sealIn(current)
	}
	if last.sum != sum || last.count < after.count {
		last = seal{max(last.count, after.count) + 1, sum}
	}
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, AnnotationReport, last.String())
	return nil
}

// A memory is what a device's node reported last, as far as this CloudCore knows. What somebody else did to the DeviceStatus is put right
// with it. The zero memory is of nothing.
type memory struct {
	node, uid string
	seal      seal
	report    []byte
}

// of reports whether it is of the device as it is now.
func (m *memory) of(d *v1beta1.Device) bool {
	return m.report != nil && m.node == d.Spec.NodeName && m.uid == string(d.UID)
}

// look takes the DeviceStatus that is there, nil for none, and returns what the node reported where that is not in it any more. What
// CloudCores wrote, this one or another, is remembered. Where this CloudCore does not hold the node, one that does may be too old to seal
// what it writes: what is there then may be newer than what is remembered, which is forgotten.
func (m *memory) look(d *v1beta1.Device, s *v1beta1.DeviceStatus, held bool) (lost *Report, err error) {
	if !m.of(d) {
		*m = memory{}
	}
	fits, err := m.take(d, s)
	if fits || err != nil || m.report == nil {
		return nil, err
	}
	if s != nil && !held {
		*m = memory{}
		return nil, nil
	}
	lost = &Report{}
	if err := json.Unmarshal(m.report, lost); err != nil {
		return nil, fmt.Errorf("decode what was reported: %w", err)
	}
	return lost, nil
}

// take remembers what was reported in s. It is false where that is nothing, or was not written by a CloudCore.
func (m *memory) take(d *v1beta1.Device, s *v1beta1.DeviceStatus) (fits bool, err error) {
	if s == nil || !ownedBy(s, d) || reporter(s) == "" || reporter(s) != d.Spec.NodeName {
		return false, nil
	}
	found := sealIn(s)
	sum, err := sumOf(s)
	if err != nil {
		return false, err
	}
	_, sealed := s.Annotations[AnnotationReport]
	switch {
	case sealed && found.sum != sum, found.count < m.seal.count:
		return false, nil
	case !sealed: // by a CloudCore that knew of no seals
		found.sum = sum
	}
	if m.report != nil && m.seal == found {
		return true, nil
	}
	said := saidIn(s)
	said.UID = string(d.UID)
	raw, err := json.Marshal(said)
	if err != nil {
		return false, fmt.Errorf("encode what was reported: %w", err)
	}
	*m = memory{reporter(s), said.UID, found, raw}
	return true, nil
}
