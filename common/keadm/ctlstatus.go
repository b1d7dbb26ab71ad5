package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/pki"
)

// gatewayStatus is how a node is, as far as can be seen at its machine. What could not be seen is nil, and Problems
// says why.
type gatewayStatus struct {
	Node string `json:"node"`
	// Running says whether edgecore answers. Without it only what is on the disk and at the runtime can be seen.
	Running bool        `json:"running"`
	Servers []string    `json:"servers"`
	Link    *linkStatus `json:"link,omitempty"`
	// Outbox is empty if nothing waits for the cloud.
	Outbox  *[]waiting     `json:"outbox,omitempty"`
	Kubelet *kubeletStatus `json:"kubelet,omitempty"`
	Pods    *podCounts     `json:"pods,omitempty"`
	// Devices is how many this node holds; absent if there is none or they could not be listed.
	Devices     int              `json:"devices,omitempty"`
	Sealing     *sealingStatus   `json:"sealing,omitempty"`
	Certificate *certificateLife `json:"certificate,omitempty"`
	Autonomy    *autonomyStatus  `json:"autonomy,omitempty"`
	Disk        *diskUse         `json:"disk,omitempty"`
	Problems    []string         `json:"problems"`
}

// podCounts counts the pods of a node; the names are namespace/name.
type podCounts struct {
	Running int `json:"running"`
	// Waiting are those with a container that does not run yet, or not again, with the reason.
	Waiting []string `json:"waiting,omitempty"`
	Ended   int      `json:"ended,omitempty"`
	// What is kept is among the others.
	keptPods
	// Sandboxes is how many pods the container runtime has, where edgecore cannot be asked.
	Sandboxes *int `json:"sandboxes,omitempty"`
}

// certificateLife is when the node's certificate ends, and from when on edgecore tries to renew it.
type certificateLife struct {
	lifetime
	RenewAt time.Time `json:"renewAt"`
}

// diskUse is in bytes.
type diskUse struct {
	Directory string `json:"directory"`
	Database  int64  `json:"database"`
	Free      int64  `json:"free"`
	Total     int64  `json:"total"`
	// Floor is the free space below which only what must not be lost is written.
	Floor int64 `json:"floor"`
}

func newCtlStatus(w IO) *cobra.Command {
	var f ctlFlags
	var output string
	c := &cobra.Command{
		Use:   "status",
		Short: "Say on one screen how this node is",
		Long: "Say on one screen how this node is: the link and since when, what waits for the cloud, the kubelet, pods, devices, what seals the\n" +
			"Secrets on the disk, how long the certificate lasts and the node can go on alone, the disk. The exit code is 1 if edgecore does\n" +
			"not run; then only what is on this machine is told.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := f.node()
			if err != nil {
				return err
			}
			s, err := seeGateway(c.Context(), w, &f, cfg)
			if err != nil {
				return err
			}
			if err := show(w.Out, output, s, func(t io.Writer) { s.write(t, w.Now()) }); err != nil {
				return err
			}
			if !s.Running {
				return errors.New("edgecore does not run; 'keadm debug diagnose edge' looks deeper")
			}
			return nil
		},
	}
	f.here(c)
	outputFlag(c, &output)
	return c
}

func seeGateway(ctx context.Context, w IO, f *ctlFlags, cfg *v1alpha1.EdgeCore) (*gatewayStatus, error) {
	s := &gatewayStatus{Node: cfg.NodeName, Servers: cfg.Cloud.Servers, Problems: []string{}}
	problem := func(what string, err error) { s.Problems = append(s.Problems, what+": "+err.Error()) }
	st, err := askStatus(ctx, cfg)
	if err != nil {
		if err := s.withoutEdgecore(ctx, w, f.config, cfg, err); err != nil {
			return nil, err
		}
	} else {
		s.Running, s.Link, s.Kubelet, s.Sealing, s.Autonomy = true, &st.Link, &st.Kubelet, st.Sealing, st.Autonomy
		if st.Unread == "" {
			s.Outbox = &st.Outbox
		} else {
			s.Problems = append(s.Problems, "outbox: "+st.Unread)
		}
		if s.Pods, err = f.countPods(ctx, st.keptPods); err != nil {
			problem("pods", err)
		}
		s.Devices = f.countDevices(ctx)
	}
	if s.Certificate, err = lifeOf(cfg); err != nil {
		problem("certificate", err)
	}
	if s.Disk, err = useOf(cfg); err != nil {
		problem("disk", err)
	}
	return s, nil
}

// withoutEdgecore says how to start edgecore, and counts what runs on without it.
func (s *gatewayStatus) withoutEdgecore(ctx context.Context, w IO, config string, cfg *v1alpha1.EdgeCore, why error) error {
	service, err := newService(serviceAuto, "edgecore", config, runDir(cfg.DataDir))
	if err != nil {
		return err
	}
	p, err := newPreflight(w, cfg, config)
	if err != nil {
		return err
	}
	r := newReport()
	r.silent(ctx, why, service, p)
	for _, f := range r.Findings {
		s.Problems = append(s.Problems, f.Found+"; "+f.Remedy)
	}
	n, err := countSandboxes(ctx, cfg.Kubelet.ContainerRuntimeEndpoint)
	if err != nil {
		s.Problems = append(s.Problems, "pods: "+err.Error())
		return nil
	}
	s.Pods = &podCounts{Sandboxes: &n}
	return nil
}

// countSandboxes asks the container runtime how many pods are up.
func countSandboxes(ctx context.Context, endpoint string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dialRuntime(endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	list, err := runtimeapi.NewRuntimeServiceClient(conn).ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return 0, fmt.Errorf("ask the container runtime at %s: %w", endpoint, err)
	}
	return len(slices.DeleteFunc(list.Items, func(p *runtimeapi.PodSandbox) bool { return p.Labels[podLabel] == "" })), nil
}

// countPods asks the local API.
func (f *ctlFlags) countPods(ctx context.Context, kept keptPods) (*podCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	g, err := f.open()
	if err != nil {
		return nil, err
	}
	list, err := g.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, g.explain(err)
	}
	counts := &podCounts{keptPods: kept}
	for i := range list.Items {
		p := &list.Items[i]
		reason, waits := waitsFor(p)
		switch {
		case p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
			counts.Ended++
		case waits:
			counts.Waiting = append(counts.Waiting, fmt.Sprintf("%s/%s (%s)", p.Namespace, p.Name, reason))
		default:
			counts.Running++
		}
	}
	return counts, nil
}

// countDevices asks the local API. A node that lists none, as one of a cluster without their kinds, has none.
func (f *ctlFlags) countDevices(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	g, err := f.open()
	if err != nil {
		return 0
	}
	b, err := raw(ctx, g.client.Discovery().RESTClient().Get().AbsPath("/apis/devices.kubeedge.io/v1beta1/devices"))
	var list metav1.PartialObjectMetadataList
	if err != nil || json.Unmarshal(b, &list) != nil {
		return 0
	}
	return len(list.Items)
}

// waitsFor reports whether a pod is not all there, and why.
func waitsFor(p *corev1.Pod) (reason string, waits bool) {
	for _, s := range statuses(p) {
		if s.State.Waiting != nil && (reason == "" || s.State.Waiting.Reason < reason) {
			reason, waits = s.State.Waiting.Reason, true
		}
	}
	if !waits && p.Status.Phase != corev1.PodRunning {
		return string(p.Status.Phase), true
	}
	return reason, waits
}

// renewal is when edgecore begins to renew a certificate: at two thirds of its life.
func renewal(issued, until time.Time) time.Time { return until.Add(-until.Sub(issued) / 3) }

func lifeOf(cfg *v1alpha1.EdgeCore) (*certificateLife, error) {
	certs, err := pki.ReadCertificates(cfg.Cloud.CertFile)
	if err != nil {
		return nil, err
	}
	c := certs[0]
	return &certificateLife{lifetime{c.NotBefore, c.NotAfter}, renewal(pki.Issued(c), c.NotAfter)}, nil
}

func useOf(cfg *v1alpha1.EdgeCore) (*diskUse, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(cfg.DataDir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.DataDir, err)
	}
	use := &diskUse{Directory: cfg.DataDir, Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize, Floor: int64(cfg.Store.FreeSpaceFloor)}
	err := filepath.WalkDir(filepath.Join(cfg.DataDir, "store"), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // none yet, or a file of the database that went meanwhile
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			use.Database += info.Size()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return use, err
}

func (s *gatewayStatus) write(w io.Writer, now time.Time) {
	say := func(name, value string) { fmt.Fprintf(w, "%-12s %s\n", name, value) }
	say("node", s.Node)
	if !s.Running {
		say("edgecore", "does not run")
	}
	if s.Link != nil {
		text := s.Link.describe(now)
		if !s.Link.Connected {
			text += "; trying " + strings.Join(s.Servers, ", ")
		}
		say("link", text)
	}
	if s.Outbox != nil {
		say("outbox", describeOutbox(*s.Outbox, now))
	}
	if s.Kubelet != nil {
		say("kubelet", s.Kubelet.describe(now))
	}
	if s.Pods != nil {
		say("pods", s.Pods.describe())
	}
	if s.Devices > 0 {
		say("devices", fmt.Sprint(s.Devices))
	}
	if s.Sealing != nil {
		say("sealing", s.Sealing.describe())
	}
	if c := s.Certificate; c != nil {
		left := "it has expired"
		if now.Before(c.NotAfter) {
			left = span(c.NotAfter.Sub(now)) + " left"
		}
		say("certificate", fmt.Sprintf("until %s (%s), renewed from %s on", stamp(c.NotAfter), left, stamp(c.RenewAt)))
	}
	if s.Autonomy != nil {
		say("autonomy", strings.Join(s.Autonomy.describe(now), "\n"+strings.Repeat(" ", 13)))
	}
	if d := s.Disk; d != nil {
		text := fmt.Sprintf("%s of %s are free below %s, the database has %s", size(d.Free), size(d.Total), d.Directory, size(d.Database))
		if d.Free < d.Floor {
			text += fmt.Sprintf("; below the floor of %s only what must not be lost is written", size(d.Floor))
		}
		say("disk", text)
	}
	for _, p := range s.Problems {
		say("PROBLEM", p)
	}
}

// describeOutbox tells what waits for the cloud.
func describeOutbox(list []waiting, now time.Time) string {
	if len(list) == 0 {
		return "empty: nothing waits for the cloud"
	}
	var parts []string
	bytes, oldest := int64(0), list[0].Oldest
	for _, w := range list {
		parts = append(parts, fmt.Sprintf("%d of class %s", w.Count, w.Class))
		bytes += w.Bytes
		if w.Oldest.Before(oldest) {
			oldest = w.Oldest
		}
	}
	return fmt.Sprintf("%s wait for the cloud, %s, the oldest since %s", strings.Join(parts, ", "), size(bytes), moment(oldest, now))
}

func (p *podCounts) describe() string {
	if p.Sandboxes != nil {
		return fmt.Sprintf("%d are up in the container runtime", *p.Sandboxes)
	}
	parts := []string{fmt.Sprintf("%d running", p.Running)}
	if n := len(p.Waiting); n > 0 {
		parts = append(parts, fmt.Sprintf("%d waiting: %s", n, some(p.Waiting)))
	}
	if p.Ended > 0 {
		parts = append(parts, fmt.Sprintf("%d ended", p.Ended))
	}
	if n := len(p.Held); n > 0 {
		parts = append(parts, fmt.Sprintf("%d held though the cluster lost the node: %s", n, some(p.Held)))
	}
	if n := len(p.StandIns); n > 0 {
		parts = append(parts, fmt.Sprintf("%d stand-in for what ended while the cluster was away: %s", n, some(p.StandIns)))
	}
	if n := len(p.Fenced); n > 0 {
		parts = append(parts, fmt.Sprintf("%d ended until the cloud is heard again: %s", n, some(p.Fenced)))
	}
	return strings.Join(parts, ", ")
}

// some names the first few.
func some(names []string) string {
	const few = 5
	if more := len(names) - few; more > 0 {
		return strings.Join(names[:few], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// size writes a number of bytes to three digits.
func size(n int64) string {
	f, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, next
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}
