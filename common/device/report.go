package device

import (
	"time"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// A Reporting is what of something reaches the cluster.
type Reporting struct {
	// Kept: none of it, it stays at the edge.
	Kept bool
	// Cycle is the least time between two values of it that the cluster is shown; 0 for no bound.
	Cycle time.Duration
}

// PropertyReporting is that of a property: reportToCloud, where that is absent true, and reportCycle.
func PropertyReporting(p *v1beta1.DeviceProperty) Reporting {
	return reporting(p.ReportToCloud, p.ReportCycle)
}

// StateReporting is that of a device's state: of stateReport, or else of the status that Devices had before there was one.
func StateReporting(d *v1beta1.Device) Reporting { return reporting(stateReport(d)) }

func stateReport(d *v1beta1.Device) (toCloud *bool, cycle int64) {
	switch {
	case d.Spec.StateReport != nil:
		return d.Spec.StateReport.ReportToCloud, d.Spec.StateReport.ReportCycle
	case d.Status != nil:
		return d.Status.ReportToCloud, d.Status.ReportCycle
	}
	return nil, 0
}

// maxCycle bounds what a manifest may say, so that a sum with it does not overflow.
const maxCycle = 365 * 24 * time.Hour

func reporting(toCloud *bool, cycle int64) Reporting {
	return Reporting{Kept: !toDMI(toCloud), Cycle: time.Duration(min(max(cycle, 0), int64(maxCycle/time.Millisecond))) * time.Millisecond}
}
