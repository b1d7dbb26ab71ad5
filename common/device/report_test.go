package device

import (
	"math"
	"testing"
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// What a manifest does not say is reported, at the edge and by mappers, which know no "absent".
func TestOnlyAnExplicitFalseKeepsAValueAtTheEdge(t *testing.T) {
	for manifest, want := range map[string]Reporting{
		`{properties: [{name: p}]}`: {},
		`{properties: [{name: p, reportToCloud: true}], stateReport: {reportToCloud: true}}`:                     {},
		`{properties: [{name: p, reportToCloud: false}], stateReport: {reportToCloud: false}}`:                   {Kept: true},
		`{properties: [{name: p, reportCycle: 1500}], stateReport: {reportCycle: 1500}}`:                         {Cycle: 1500 * time.Millisecond},
		`{properties: [{name: p, reportCycle: -1}], stateReport: {reportCycle: -1}}`:                             {},
		`{properties: [{name: p, reportCycle: 9000000000000000}], stateReport: {reportCycle: 9000000000000000}}`: {Cycle: maxCycle},
	} {
		d := from[v1beta1.Device](t, "spec: "+manifest)
		if got := PropertyReporting(&d.Spec.Properties[0]); got != want {
			t.Errorf("%s: property %+v, expected %+v", manifest, got, want)
		}
		if got := StateReporting(d); got != want {
			t.Errorf("%s: state %+v, expected %+v", manifest, got, want)
		}
		told, err := ToDMI(d, nil)
		if err != nil || told.Spec.Properties[0].ReportToCloud == want.Kept || told.Status.ReportToCloud == want.Kept {
			t.Errorf("%s: mappers are told %v, %v", manifest, told, err)
		}
	}
	old := from[v1beta1.Device](t, "status: {reportToCloud: false, reportCycle: 7}")
	if got := StateReporting(old); got != (Reporting{Kept: true, Cycle: 7 * time.Millisecond}) {
		t.Errorf("by the former status: %+v", got)
	}
	old.Spec.StateReport = &v1beta1.StateReport{ReportCycle: math.MaxInt64}
	if got := StateReporting(old); got != (Reporting{Cycle: maxCycle}) {
		t.Errorf("with a stateReport: %+v", got)
	}
}
