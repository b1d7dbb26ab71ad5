package keadm

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/drill"
)

// drillResult is how a drill went, for programs.
type drillResult struct {
	Node string `json:"node"`
	ID   string `json:"id"`
	// Edge is the node's own report.
	Edge *drill.Report `json:"edge"`
	// Cluster is what was seen from beside the cluster.
	Cluster *clusterView `json:"cluster"`
	// Broke is what broke, as both saw it.
	Broke []string `json:"broke"`
}

// verdict is an error if something broke.
func (r *drillResult) verdict() error {
	if n := len(r.Broke) + r.Edge.MoreBroke; n > 0 {
		return fmt.Errorf("in drill %s of node %s %s broke: %s", r.ID, r.Node, things(n), strings.Join(r.Broke, "; "))
	}
	return nil
}

func things(n int) string {
	if n == 1 {
		return "one thing"
	}
	return fmt.Sprintf("%d things", n)
}

const (
	// drillLook is how often the Node, its Lease and its pods are read, twinLook how often all pods of their controllers.
	drillLook, twinLook = 2 * time.Second, 15 * time.Second
)

// watch follows the drill until the node has reported and is Ready, or its time is over.
func (d *driller) watch(ctx context.Context, o drill.Order) (*drillResult, error) {
	d.view.cut = d.w.Now()
	limit := o.For.Duration + d.patience
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(drillLook)
	defer tick.Stop()
	var twins time.Time
	said, last := "", drill.Agreed
	for {
		now := d.w.Now()
		state, err := d.glance(ctx, now)
		if err == nil && now.Sub(twins) >= twinLook {
			twins = now
			err = d.news(d.view.twins(ctx, d.api, now))
		}
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			fmt.Fprintf(d.w.Err, "keadm: %v; trying on\n", err)
		}
		if state != nil && state.ID != o.ID {
			return nil, fmt.Errorf("node %s says nothing of drill %s any more, but of %s: another one was ordered", d.name, o.ID, cmp.Or(state.ID, "one without a name"))
		}
		if state != nil && state.Phase != last {
			last = state.Phase
			switch last {
			case drill.CalledOff:
				return nil, fmt.Errorf("there was no drill: %s", state.Why)
			case drill.Back, drill.Done:
				fmt.Fprintf(d.w.Out, "%s  the node is back: %s\n", clock(now), last)
			}
		}
		if state != nil && state.Phase == drill.Done && state.Report != nil && d.view.ready == corev1.ConditionTrue {
			if err := d.news(d.view.twins(ctx, d.api, now)); err == nil {
				return d.result(o, state.Report), nil
			}
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		if d.w.Now().Sub(d.view.cut) < limit-time.Second {
			return nil, fmt.Errorf("%w: the drill goes on, and the node ends it by itself; 'keadm drill %s --show' says how it went", errInterrupted, d.name)
		}
		return nil, fmt.Errorf("node %s is not back %s after the cut: expected a report and Ready, found Ready %s and the drill %s; what it does meanwhile 'keadm ctl status' at the node says%s",
			d.name, d.patience, d.view.ready, last, broken(d.view.Broke))
	}
}

func broken(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return "; so far this broke: " + strings.Join(list, "; ")
}

// glance looks at the cluster once, and returns what the node says of its drill as far as the cluster shows it.
func (d *driller) glance(ctx context.Context, now time.Time) (*drill.State, error) {
	n, err := d.find(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.news(d.view.look(ctx, d.api, n, now)); err != nil {
		return nil, err
	}
	return stateOf(n)
}

// news tells what was seen as it is seen.
func (d *driller) news(news []string, err error) error {
	for _, s := range news {
		fmt.Fprintf(d.w.Out, "%s  %s\n", clock(d.w.Now()), s)
	}
	return err
}

func clock(t time.Time) string { return t.UTC().Format(time.TimeOnly) }

func (d *driller) result(o drill.Order, r *drill.Report) *drillResult {
	v := &d.view
	if !v.back.IsZero() {
		// Both times are of this machine's clock: the node's may be another.
		end := v.cut.Add(r.Ended.Sub(r.Began))
		v.Ready = &metav1.Duration{Duration: max(0, v.back.Sub(end)).Round(time.Second)}
	}
	return &drillResult{Node: d.name, ID: o.ID, Edge: r, Cluster: v, Broke: append(append([]string{}, r.Broke...), v.Broke...)}
}

func (r *drillResult) write(t io.Writer) {
	row(t, "node", r.Node)
	row(t, "drill", r.ID)
	writeReport(t, r.Edge)
	v := r.Cluster
	seen := fmt.Sprintf("the Lease was not renewed for up to %s", v.Silent.Duration)
	if v.Unready == nil {
		seen += ", Ready all the time"
	} else {
		seen += fmt.Sprintf(", not Ready %s after the cut", v.Unready.Duration)
	}
	if v.Ready != nil {
		seen += fmt.Sprintf(", Ready %s after its end", v.Ready.Duration)
	}
	row(t, "cluster", seen)
	for _, c := range v.Changes {
		row(t, "", clock(c.At)+"  "+c.What)
	}
	writeBroke(t, r.Broke, r.Edge.MoreBroke)
}

func writeBroke(t io.Writer, list []string, more int) {
	if len(list)+more == 0 {
		row(t, "broke", "nothing")
	}
	for _, b := range list {
		row(t, "BROKE", b)
	}
	if more > 0 {
		row(t, "BROKE", fmt.Sprintf("%s more", things(more)))
	}
}

// writeState prints what a node says of its last drill.
func writeState(t io.Writer, s *drill.State) {
	row(t, "drill", s.ID)
	row(t, "phase", s.Phase)
	if s.Why != "" {
		row(t, "because", s.Why)
	}
	if s.Phase == drill.Cut {
		row(t, "until", stamp(s.Until))
	}
	if s.Report != nil {
		writeReport(t, s.Report)
		writeBroke(t, s.Report.Broke, s.Report.MoreBroke)
	}
}

func writeReport(t io.Writer, r *drill.Report) {
	row(t, "cut", fmt.Sprintf("%s to %s (%s), ended by %s", stamp(r.Began), stamp(r.Ended), r.Ended.Sub(r.Began), r.End))
	if r.Power {
		row(t, "power", fmt.Sprintf("edgecore was killed in the middle and started %d times", r.Starts))
	}
	row(t, "pods", fmt.Sprintf("%d with %d containers were watched", r.Pods, r.Containers))
	row(t, "local API", fmt.Sprintf("%d of %d reads were answered, the slowest in %s", r.Reads-r.Unanswered, r.Reads, r.Slowest.Duration))
	row(t, "devices", fmt.Sprintf("%d updates were taken", r.DeviceUpdates))
	waited := []string{}
	for _, w := range r.Waited {
		waited = append(waited, fmt.Sprintf("%d of class %s (%s)", w.Count, w.Class, size(w.Bytes)))
	}
	if len(waited) == 0 {
		waited = []string{"nothing"}
	}
	row(t, "waited", fmt.Sprintf("%s for the cloud, %d were lost", strings.Join(waited, ", "), r.Lost))
	back := fmt.Sprintf("the link was up after %s", r.Linked.Duration)
	if r.Delivered.Duration > 0 {
		back += fmt.Sprintf(", all that had waited was delivered after %s", r.Delivered.Duration)
	}
	row(t, "back", back)
	for _, c := range r.Changes {
		row(t, "", clock(c.At)+"  "+c.What)
	}
	if r.MoreChanges > 0 {
		row(t, "", fmt.Sprintf("and %d changes more", r.MoreChanges))
	}
}
