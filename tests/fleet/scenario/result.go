package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/tether-edge/tether/common/transport"
)

// Figure is one measured quantity.
type Figure struct {
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	// Limit is the most that it may be; nil for a figure that only explains.
	Limit *float64 `json:"limit,omitempty"`
	// Promise says that the limit holds on any machine, however loaded.
	Promise bool   `json:"promise,omitempty"`
	Note    string `json:"note,omitempty"`
}

// missed reports whether the figure is beyond its limit.
func (f Figure) missed() bool { return f.Limit != nil && !(f.Value <= *f.Limit) } // also where it is no number

// verdict shows the limit, and whether it was met.
func (f Figure) verdict() (limit, verdict string) {
	if f.Limit == nil {
		return "", ""
	}
	verdict = "met"
	if f.missed() {
		verdict = "MISSED"
	}
	if f.Promise {
		verdict += ", promise"
	}
	return "<= " + number(*f.Limit), verdict
}

// Outcome is what one scenario showed.
type Outcome struct {
	Scenario string   `json:"scenario"`
	Seconds  float64  `json:"seconds"`
	Load     string   `json:"load"` // the machine's load average over 1 minute at the end
	Figures  []Figure `json:"figures"`
	// Profile are the functions in which the first hub spent its processor time, as pprof shows them.
	Profile string `json:"profile,omitempty"`
	// Failure is why it did not come to its end.
	Failure string `json:"failure,omitempty"`
}

// Result is what a run showed.
type Result struct {
	Commit   string             `json:"commit"`
	At       time.Time          `json:"at"`
	Machine  string             `json:"machine"`
	Nodes    int                `json:"nodes"`
	Protocol transport.Protocol `json:"protocol"`
	// Listeners says that each node had its port for its kubelet.
	Listeners bool `json:"listeners,omitempty"`
	// Small runs have short rests and small loads: their figures prove that the scenarios work, and nothing else.
	Small    bool      `json:"small,omitempty"`
	Outcomes []Outcome `json:"outcomes"`
}

// Missed counts the limits that were passed: all, and those of promises.
func (r *Result) Missed() (all, promises int) {
	for _, o := range r.Outcomes {
		for _, f := range o.Figures {
			if f.missed() {
				all++
				if f.Promise {
					promises++
				}
			}
		}
	}
	return all, promises
}

// Save writes a JSON file for each scenario into the directory, each in one step: SCENARIO-PROTOCOL-NODES.json, with -listeners and
// -small where they apply. A later run of the same kind takes its place; the others stay.
func (r *Result) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	for _, o := range r.Outcomes {
		one := *r
		one.Outcomes = []Outcome{o}
		text, err := json.MarshalIndent(one, "", "  ")
		if err != nil {
			return fmt.Errorf("encode the results: %w", err)
		}
		name := fmt.Sprintf("%s-%s-%d", o.Scenario, r.Protocol, r.Nodes)
		if r.Listeners {
			name += "-listeners"
		}
		if r.Small {
			name += "-small"
		}
		path := filepath.Join(dir, name+".json")
		if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	return nil
}

// Table shows an outcome to a person.
func (o *Outcome) Table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s\tVALUE\tLIMIT\tUNIT\t\n", o.Scenario)
	for _, f := range o.Figures {
		limit, verdict := f.verdict()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.What, number(f.Value), limit, f.Unit, verdict)
	}
	_ = w.Flush() // of a table that is cut short a person sees that
	for _, f := range o.Figures {
		if f.Note != "" {
			fmt.Fprintf(out, "  %s: %s\n", f.What, f.Note)
		}
	}
	if o.Failure != "" {
		fmt.Fprintf(out, "  FAILED: %s\n", o.Failure)
	}
	fmt.Fprintf(out, "  %s took %.0f s, load average %s\n", o.Scenario, o.Seconds, o.Load)
}

// number shows three significant digits, and whole numbers whole.
func number(v float64) string {
	switch {
	case v == math.Trunc(v) || math.Abs(v) >= 1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// percentile is the value at the nearest rank; of none it is no number.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(int(math.Ceil(p/100*float64(len(sorted)))), 1)-1]
}

// slope is that of the line of least squares through the points.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	n := float64(len(x))
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}
