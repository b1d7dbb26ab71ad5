// Package v1alpha1 is the configuration of Tether's two daemons: kinds CloudCore and EdgeCore of config.tether.io.
//
// A configuration is a YAML file with apiVersion and kind, decoded strictly: an unknown or misspelt field is an error,
// never ignored. It promises that what a file leaves out has the value that --print-defaults shows, and that every
// fault of a file is reported at once, each with the path of its field, what was expected and what was found. The
// mains of cloudcore and edgecore load it; keadm and the tests write it.
package v1alpha1

// APIVersion is the apiVersion of every kind in this package.
const APIVersion = "config.tether.io/v1alpha1"

// The kinds of this package.
const (
	KindCloudCore = "CloudCore"
	KindEdgeCore  = "EdgeCore"
)

// TypeMeta opens every configuration file.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Metrics says where a daemon serves /metrics, /healthz and /readyz, in clear and without authentication.
type Metrics struct {
	// BindAddress is host:port. Beyond loopback, anyone who reaches it can read it.
	BindAddress string `json:"bindAddress"`
	// Profiling adds Go's profiles at /debug/pprof, which let whoever reaches the address look into the process: only on
	// loopback.
	Profiling bool `json:"profiling"`
}

func (m Metrics) validate(f *faults) {
	if m.Profiling {
		f.loopback("metrics.bindAddress", m.BindAddress)
		return
	}
	f.hostPort("metrics.bindAddress", m.BindAddress)
}

// Log says how a daemon writes its log, always to standard error.
type Log struct {
	// Level is debug, info, warn or error.
	Level string `json:"level"`
	// Format is text or json.
	Format string `json:"format"`
}
