package keadm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

func newReset(w IO) *cobra.Command {
	return newGroup("reset", "Undo join (reset edge) or init (reset cloud)", newResetEdge(w), newResetCloud(w))
}

// confirmed asks, unless force says that nobody is to be asked.
func confirmed(w IO, force bool, what string) error {
	if force {
		return nil
	}
	fmt.Fprintf(w.Err, "%s [y/N] ", what)
	answer := ""
	if w.In != nil {
		answer, _ = bufio.NewReader(w.In).ReadString('\n') // no answer is a no
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was changed: expected y; --force asks nothing")
	}
	return nil
}

func newResetEdge(w IO) *cobra.Command {
	r := &edgeReset{w: w, root: "/", links: kernelLinks{}, run: execute, api: localAPI}
	var service, output string
	var force bool
	c := &cobra.Command{
		Use:   "edge",
		Short: "Make this machine no edge node any more",
		Long: "Stop edgecore, end the node's pods, give its name back to the cluster, and remove its files. Where everything is, the\n" +
			"configuration says; --data-dir and --pki-dir say otherwise. Images, the container runtime and networks that were there before\n" +
			"stay. Nothing is done to a machine where another kubelet runs.\n\n" +
			"First it drains, if edgecore runs and reaches the cluster: the node takes no more pods, and those that a Deployment or the like\n" +
			"replaces are evicted, with their preStop hooks, as disruption budgets allow; it waits until they have ended and the cloud\n" +
			"knows. The rest, and after --drain-timeout all that are left, end with their grace periods alone.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			progress, err := progressOf(w, output)
			if err != nil {
				return err
			}
			if err := positive("drain-timeout", r.drainTimeout); err != nil {
				return err
			}
			r.w = progress
			r.user, r.dataSaid, r.pkiSaid = os.Geteuid(), c.Flags().Changed("data-dir"), c.Flags().Changed("pki-dir")
			if err := r.look(c.Context(), service); err != nil {
				return err
			}
			question := "Remove what is left of a join?"
			if r.cfg != nil {
				question = fmt.Sprintf("End all pods of node %s and remove its data?", r.cfg.NodeName)
			}
			if err := confirmed(w, force, question); err != nil {
				return err
			}
			if err := r.do(c.Context()); err != nil {
				return err
			}
			return showResult(w, output, r.done)
		},
	}
	r.files.flags(c)
	outputFlag(c, &output)
	c.Flags().StringVar(&service, "service", serviceAuto, "how edgecore was started: see join")
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	c.Flags().BoolVar(&r.keepNode, "keep-node", false, "do not tell the cluster: the Node stays, as NotReady; nothing is drained")
	c.Flags().BoolVar(&r.drains, "drain", true, "have the cluster move pods to other nodes first, if it can")
	c.Flags().DurationVar(&r.drainTimeout, "drain-timeout", drainTimeout, "how long pods may take to move, before the reset goes on without them")
	choices(c, "service", services...)
	return c
}

// edgeReset undoes a join on this machine.
type edgeReset struct {
	w    IO
	root string // of the file system, for what no flag names
	user int
	// files are where flags and configuration say; the two tell whether a flag did.
	files             edgeFiles
	dataSaid, pkiSaid bool
	keepNode          bool
	drains            bool
	drainTimeout      time.Duration
	// api makes a client of the API of the node with its data in a directory.
	api func(dataDir string) (kubernetes.Interface, error)
	// cfg is the node's configuration; nil if there is none, and then no pod is known to be this node's.
	cfg     *v1alpha1.EdgeCore
	service *service
	links   links
	run     func(ctx context.Context, input string, argv ...string) ([]byte, error)
	done    edgeResetResult
	// cordoned: the cluster was asked to place no more pods on the node.
	cordoned bool
}

// edgeResetResult is what a reset did, for programs.
type edgeResetResult struct {
	// Node is empty where no configuration says which it was.
	Node string `json:"node"`
	// Drained is absent where draining was not tried.
	Drained *drained `json:"drained,omitempty"`
	// Stopped is whether edgecore ran, Ended how many pods were ended.
	Stopped bool `json:"stopped"`
	Ended   int  `json:"ended"`
	// Left is whether the cluster was told: the Node is gone there.
	Left bool `json:"nodeRemoved"`
	// Removed are the files and directories that are gone, or emptied of what was the node's.
	Removed []string `json:"removed"`
}

// untouched ends what look says.
const untouched = "nothing was changed"

// look finds out what there is to undo, changes nothing, and refuses what could hit another's pods.
func (r *edgeReset) look(ctx context.Context, service string) (err error) {
	if r.user != 0 {
		return fmt.Errorf("expected root, found user id %d: run 'keadm reset edge' as root; %s", r.user, untouched)
	}
	if r.files.config, err = filepath.Abs(r.files.config); err != nil {
		return err
	}
	if r.cfg, err = joined(r.files.config); err != nil {
		return fmt.Errorf("%w: expected edgecore's configuration, which says what is this node's: mend it, or name another with --config; %s", err, untouched)
	}
	if r.cfg != nil {
		r.follow()
	}
	if r.service, err = newService(service, "edgecore", r.files.config, runDir(r.files.data)); err != nil {
		return err
	}
	own, others, err := kubelets(r.root, r.files.config)
	if err != nil {
		return fmt.Errorf("%w; expected to see whether another kubelet runs here, since resetting would end its pods; %s", err, untouched)
	}
	for _, k := range others {
		if k.name == "edgecore" && k.config != "" {
			return fmt.Errorf("%s: expected none but the edgecore of %s; to reset that node, name its configuration with --config; %s", k, r.files.config, untouched)
		}
		return fmt.Errorf("%s: expected no kubelet but this node's, since resetting would end the other's pods; end it first; %s", k, untouched)
	}
	if err := r.stoppable(ctx, own); err != nil {
		return err
	}
	if config := r.service.foreign(); config != "" {
		return fmt.Errorf("%s starts edgecore with --config %s: expected %s; to reset that node, name its configuration with --config; %s",
			r.service.unit(), config, r.files.config, untouched)
	}
	if r.cfg == nil && !slices.ContainsFunc(r.traces(), isThere) {
		return fmt.Errorf("this machine is no edge node: expected edgecore's configuration in %s, or what is left of a join in %s or %s, found neither; --config, --data-dir and --pki-dir name other places; %s",
			r.files.config, r.files.data, r.files.pki, untouched)
	}
	return nil
}

// stoppable refuses a running edgecore that stopping the service would leave running.
func (r *edgeReset) stoppable(ctx context.Context, own []kubelet) error {
	for _, k := range own {
		ours, err := r.service.started(ctx, r.root, k.pid)
		if err != nil {
			return fmt.Errorf("%w; expected to see what started %s, since it has to be stopped; %s", err, k, untouched)
		}
		if !ours {
			return fmt.Errorf("%s: %s; %s", k, r.notOurs(), untouched)
		}
	}
	return nil
}

// notOurs says what to do about an edgecore that cannot be stopped here.
func (r *edgeReset) notOurs() string {
	return fmt.Sprintf("neither systemd nor 'keadm supervise' with its files in %s started it; end it the way it was started, and run 'keadm reset edge' again", r.service.state)
}

// follow takes from the configuration where the node's files are, unless flags said otherwise.
func (r *edgeReset) follow() {
	if !r.dataSaid {
		r.files.data = r.cfg.DataDir
	}
	if r.pkiSaid {
		r.cfg.Cloud.KeyFile, r.cfg.Cloud.CertFile, r.cfg.Cloud.CAFile = r.files.key(), r.files.cert(), r.files.ca()
	}
	r.files.pki = filepath.Dir(r.cfg.Cloud.KeyFile)
}

// identity are the files of the node's identity.
func (r *edgeReset) identity() []string {
	if r.cfg != nil {
		return []string{r.cfg.Cloud.KeyFile, r.cfg.Cloud.CertFile, r.cfg.Cloud.CAFile}
	}
	return []string{r.files.key(), r.files.cert(), r.files.ca()}
}

// traces are what a join makes that nothing else does.
func (r *edgeReset) traces() []string {
	return append(r.identity(), r.service.pidFile(), r.service.logFile(), filepath.Join(r.files.data, "store"),
		filepath.Join(r.root, networkDir, networkFile))
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// do undoes what look found. It can be run again until it has succeeded: the configuration goes last.
func (r *edgeReset) do(ctx context.Context) error {
	err := r.undo(ctx)
	if err != nil && r.cordoned && !r.done.Left {
		return fmt.Errorf("%w; for the node to take pods again: kubectl uncordon %s", err, r.cfg.NodeName)
	}
	return err
}

// undo is do without its last words.
func (r *edgeReset) undo(ctx context.Context) error {
	if r.cfg != nil && r.drains && !r.keepNode {
		var err error
		if r.done.Drained, err = r.drain(ctx); err != nil {
			return err
		}
	}
	stopped, err := r.service.remove(ctx)
	if err != nil {
		return err
	}
	own, _, err := kubelets(r.root, r.files.config)
	if err != nil {
		return err
	}
	if len(own) > 0 {
		return fmt.Errorf("%s still: %s", own[0], r.notOurs())
	}
	if r.done.Stopped = stopped; stopped {
		fmt.Fprintln(r.w.Out, "stopped  edgecore")
	}
	if r.cfg == nil {
		fmt.Fprintf(r.w.Err, "keadm: no configuration in %s: pods, if there are any, stay: nothing says that they are this node's\n", r.files.config)
	} else if err := r.giveBack(ctx); err != nil {
		return err
	}
	if err := r.removeNetwork(ctx); err != nil {
		return err
	}
	return r.removeFiles(ctx)
}

// giveBack ends the pods and then gives the node's name back to the cluster, which places others in their stead.
func (r *edgeReset) giveBack(ctx context.Context) error {
	n, err := endPods(ctx, r.w, r.cfg.Kubelet.ContainerRuntimeEndpoint)
	if err != nil {
		return fmt.Errorf("end the node's pods: %w; run 'keadm reset edge' again when the container runtime answers", err)
	}
	if r.done.Node, r.done.Ended = r.cfg.NodeName, n; n > 0 {
		fmt.Fprintf(r.w.Out, "ended    %d pods\n", n)
	}
	if r.keepNode {
		return nil
	}
	if err := r.leave(ctx); err != nil {
		name := r.cfg.NodeName
		fmt.Fprintf(r.w.Err, "keadm: the cluster was not told: %v\n      remove the node there: keadm node remove %s\n", err, name)
	} else {
		r.done.Left = true
		fmt.Fprintf(r.w.Out, "removed  node %s from the cluster\n", r.cfg.NodeName)
	}
	return nil
}

// leave gives the node's name back.
func (r *edgeReset) leave(ctx context.Context) error {
	ports, err := joinPortsOf(r.cfg)
	if err != nil {
		return err
	}
	var failed error
	for _, server := range ports.servers {
		c, err := identified(&r.cfg.Cloud, ports, server, r.w.Now)
		if err != nil {
			return err
		}
		if err = c.Leave(ctx); err == nil {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// removeFiles removes what join and edgecore made, and says what was there.
func (r *edgeReset) removeFiles(ctx context.Context) error {
	var dirs []string // the kubelet's: one that is a mount point is only emptied
	if r.cfg != nil {
		// Volumes of pods are mounts below the kubelet's directory.
		if err := unmountBelow(r.cfg.Kubelet.RootDir); err != nil {
			return err
		}
		dirs = []string{r.cfg.Kubelet.RootDir, filepath.Join(r.root, "var/log/pods"), filepath.Join(r.root, "var/log/containers")}
	}
	if err := clearDirs(dirs...); err != nil {
		return err
	}
	if r.cfg != nil {
		r.removeRules(ctx)
		if err := removeCgroups(r.cfg.Kubelet.CgroupRoot); err != nil {
			return err
		}
	}
	data, err := removeAll(below(r.files.data, dataFiles)...)
	if err != nil {
		return err
	}
	identity, err := removeAll(r.identity()...)
	if err != nil {
		return err
	}
	config, err := removeAll(r.files.config)
	if err != nil {
		return err
	}
	removeEmpty(append(dirs, r.files.data, r.files.pki, filepath.Dir(r.files.config))...)
	var what []string
	r.done.Removed = []string{} // for programs an empty list, not null
	for _, x := range []struct {
		name, path string
		found      bool
	}{{"configuration ", r.files.config, config}, {"data in ", r.files.data, data}, {"key and certificates in ", r.files.pki, identity}} {
		if x.found {
			what, r.done.Removed = append(what, x.name+x.path), append(r.done.Removed, x.path)
		}
	}
	if len(what) > 0 {
		fmt.Fprintf(r.w.Out, "removed  %s\n", strings.Join(what, ", "))
	}
	if isThere(r.files.data) && data {
		fmt.Fprintf(r.w.Out, "left     what else is in %s\n", r.files.data)
	}
	return nil
}

// dataFiles are what edgecore and its supervisor have in the directory of its data. What else is there is not ours.
var dataFiles = []string{"store", "seal", "pki", "kubelet", "time", "admin.kubeconfig", "run"}

func below(dir string, names []string) (paths []string) {
	for _, n := range names {
		paths = append(paths, filepath.Join(dir, n))
	}
	return paths
}

// removeAll removes paths with what is in them and reports whether any was there.
func removeAll(paths ...string) (found bool, err error) {
	for _, p := range paths {
		if !isThere(p) {
			continue
		}
		found = true
		if err := os.RemoveAll(p); err != nil {
			return found, fmt.Errorf("remove %s: %w", p, err)
		}
	}
	return found, nil
}

// clearDirs removes what is in directories.
func clearDirs(dirs ...string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove what is in %s: %w", dir, err)
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove what is in %s: %w", dir, err)
			}
		}
	}
	return nil
}
