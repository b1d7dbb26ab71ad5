package keadm

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// A finding is something about this machine that hurts, or would later.
type finding struct {
	Name string `json:"name"`
	// Error: a node cannot work so. Else it is worth knowing.
	Error  bool   `json:"error"`
	Found  string `json:"found"`
	Remedy string `json:"remedy"`
}

// machineReport is what keadm sees at a machine. What it could not see is nil.
type machineReport struct {
	// Node is the name of the node that the machine is, if it has joined.
	Node        string         `json:"node,omitempty"`
	Link        *linkStatus    `json:"link,omitempty"`
	Kubelet     *kubeletStatus `json:"kubelet,omitempty"`
	Sealing     *sealingStatus `json:"sealing,omitempty"`
	Certificate *lifetime      `json:"certificate,omitempty"`
	Findings    []finding      `json:"findings"`
}

// lifetime is when a certificate is valid.
type lifetime struct {
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
}

// newReport has no findings: for programs an empty list, not null.
func newReport() *machineReport { return &machineReport{Findings: []finding{}} }

func (r *machineReport) add(isError bool, name, found, remedy string) {
	r.Findings = append(r.Findings, finding{Name: name, Error: isError, Found: found, Remedy: remedy})
}

// errors are the names of what is wrong.
func (r *machineReport) errors() (names []string) {
	for _, f := range r.Findings {
		if f.Error && !slices.Contains(names, f.Name) {
			names = append(names, f.Name)
		}
	}
	return names
}

// write tells it to people.
func (r *machineReport) write(w io.Writer, now time.Time) {
	if r.Node != "" {
		fmt.Fprintf(w, "node         %s\n", r.Node)
	}
	if r.Link != nil {
		fmt.Fprintf(w, "link         %s\n", r.Link.describe(now))
	}
	if r.Kubelet != nil {
		fmt.Fprintf(w, "kubelet      %s\n", r.Kubelet.describe(now))
	}
	if r.Sealing != nil {
		fmt.Fprintf(w, "sealing      %s\n", r.Sealing.describe())
	}
	if r.Certificate != nil {
		fmt.Fprintf(w, "certificate  until %s\n", stamp(r.Certificate.NotAfter))
	}
	writeFindings(w, r.Findings, nil)
	switch {
	case len(r.errors()) > 0 || r.Link != nil && !r.Link.Connected:
	case r.Node == "":
		fmt.Fprintln(w, "this machine is ready to join")
	default:
		fmt.Fprintln(w, "nothing is wrong")
	}
}

// writeFindings tells findings to people. Errors among those ignored are notes.
func writeFindings(w io.Writer, found []finding, ignored []string) {
	for _, f := range found {
		kind := "note "
		if f.Error && !isIgnored(f.Name, ignored) {
			kind = "ERROR"
		}
		fmt.Fprintf(w, "%s %s: %s\n      %s\n", kind, f.Name, f.Found, f.Remedy)
	}
}

// findingNames are the names of what the preflight finds.
var findingNames = []string{
	"root", "cgroup-v1", "overlayfs", "ip-forward", "swap", "cni-plugins", "mtu", "disk", "other-kubelet", "port", "proxy",
	"runtime", "cgroup-driver", "runc", "dns", "cloud", "time", "no-cloud", "udp",
}

// knownFindings makes the name of a finding that there is not a usage error: whoever misspells one is not to learn it
// from a join that fails.
func knownFindings(ignored []string) error {
	for _, name := range ignored {
		if err := oneOf("ignore-preflight-errors", name, append([]string{"all"}, findingNames...)); err != nil {
			return err
		}
	}
	return nil
}

func isIgnored(name string, ignored []string) bool {
	return slices.Contains(ignored, name) || slices.Contains(ignored, "all")
}

// admit shows what the preflight of a join found, and ends the join if an error is not to be ignored.
func admit(w IO, found []finding, ignored []string) error {
	writeFindings(w.Err, found, ignored)
	errs := (&machineReport{Findings: slices.DeleteFunc(slices.Clone(found), func(f finding) bool { return isIgnored(f.Name, ignored) })}).errors()
	if len(errs) > 0 {
		return fmt.Errorf("this machine is not ready to join: %s (nothing was changed; --ignore-preflight-errors NAME goes on in spite of one)", strings.Join(errs, ", "))
	}
	return nil
}
