package keadm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/build"
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
	var files edgeFiles
	var service string
	var force, keepNode bool
	c := &cobra.Command{
		Use:   "edge",
		Short: "Make this machine no edge node any more",
		Long: "Give the node's name back to the cluster, stop edgecore, end the containers of its pods, and remove its files.\n" +
			"Images, the container runtime and networks that were there before stay.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := confirmed(w, force, "End all pods of this node and remove its data?"); err != nil {
				return err
			}
			s, err := newService(service, "edgecore", files.config, runDir(files.data))
			if err != nil {
				return err
			}
			return resetEdge(c.Context(), w, &files, s, keepNode)
		},
	}
	files.flags(c)
	c.Flags().StringVar(&service, "service", serviceAuto, "how edgecore was started: see join")
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	c.Flags().BoolVar(&keepNode, "keep-node", false, "do not tell the cluster: the Node stays, as NotReady")
	choices(c, "service", services...)
	return c
}

func resetEdge(ctx context.Context, w IO, files *edgeFiles, s *service, keepNode bool) error {
	cfg, err := v1alpha1.LoadEdgeCore(files.config)
	if err != nil {
		// Half a join, or half a reset: what is there goes all the same.
		fmt.Fprintf(w.Err, "keadm: %v: going on with the defaults\n", err)
		cfg = v1alpha1.DefaultEdgeCore()
		cfg.DataDir = files.data
	} else if !keepNode {
		if err := leave(ctx, w, files, cfg); err != nil {
			fmt.Fprintf(w.Err, "keadm: the cluster was not told: %v\n      remove the node there: kubectl -n kube-node-lease annotate lease %s tether.io/removed=true; kubectl delete node %s\n", err, cfg.NodeName, cfg.NodeName)
		} else {
			fmt.Fprintf(w.Out, "removed  node %s from the cluster\n", cfg.NodeName)
		}
	}
	if err := s.remove(ctx); err != nil {
		return err
	}
	fmt.Fprintln(w.Out, "stopped  edgecore")
	n, err := removePods(ctx, cfg.Kubelet.ContainerRuntimeEndpoint)
	if err != nil {
		return fmt.Errorf("end the node's pods: %w; run 'keadm reset edge' again when the container runtime answers", err)
	}
	fmt.Fprintf(w.Out, "ended    %d pods\n", n)
	if err := removeFiles(files, cfg); err != nil {
		return err
	}
	fmt.Fprintln(w.Out, "removed  keys, certificates, configuration and data")
	return nil
}

// leave gives the node's name back.
func leave(ctx context.Context, w IO, files *edgeFiles, cfg *v1alpha1.EdgeCore) error {
	ports, err := joinPortsOf(cfg)
	if err != nil {
		return err
	}
	var failed error
	for _, server := range ports.servers {
		c, err := files.client(ports, server, w.Now)
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

// podLabel is on every sandbox that a kubelet makes.
const podLabel = "io.kubernetes.pod.uid"

// removePods ends every pod of the kubelet and returns how many there were. A runtime that is not there has none.
func removePods(ctx context.Context, endpoint string) (int, error) {
	if socket, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		if _, err := os.Stat(socket); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
	}
	conn, err := dialRuntime(endpoint)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, p := range list.Items {
		if p.Labels[podLabel] == "" {
			continue // somebody else's
		}
		if _, err := runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return n, fmt.Errorf("stop pod %s: %w", p.Metadata.GetName(), err)
		}
		if _, err := runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return n, fmt.Errorf("remove pod %s: %w", p.Metadata.GetName(), err)
		}
		n++
	}
	return n, nil
}

// removeFiles removes what join and edgecore made.
func removeFiles(files *edgeFiles, cfg *v1alpha1.EdgeCore) error {
	// Volumes of pods are mounts below the kubelet's directory.
	if err := unmountBelow(cfg.Kubelet.RootDir); err != nil {
		return err
	}
	for _, p := range []string{cfg.DataDir, files.key(), files.cert(), files.ca(), files.config, filepath.Join("/", networkDir, networkFile)} {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove %s: %w", p, err)
		}
	}
	// The directories themselves may be mount points, or were there before.
	for _, dir := range []string{cfg.Kubelet.RootDir, "/var/log/pods", "/var/log/containers"} {
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
	removeEmpty(files.pki, filepath.Dir(files.config))
	removeRules()
	return removeCgroups(cfg.Kubelet.CgroupRoot)
}

// removeRules removes the chains that a kubelet makes at its start. What is not there, a program included, needs no
// removing.
func removeRules() {
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, args := range []string{
			"-t filter -D INPUT -j KUBE-FIREWALL", "-t filter -D OUTPUT -j KUBE-FIREWALL", "-t filter -F KUBE-FIREWALL", "-t filter -X KUBE-FIREWALL",
			"-t filter -X KUBE-KUBELET-CANARY", "-t nat -X KUBE-KUBELET-CANARY", "-t mangle -X KUBE-KUBELET-CANARY", "-t mangle -X KUBE-IPTABLES-HINT",
		} {
			_ = exec.Command(program, append([]string{"--wait", "5"}, strings.Fields(args)...)...).Run()
		}
	}
}

func unmountBelow(dir string) error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], strings.TrimSuffix(dir, "/")+"/") {
			points = append(points, strings.ReplaceAll(f[1], `\040`, " "))
		}
	}
	slices.Sort(points)
	slices.Reverse(points) // what is below first
	for _, p := range points {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// removeCgroups removes the kubelet's empty groups in every hierarchy.
func removeCgroups(root string) error {
	for _, pattern := range []string{filepath.Join("/sys/fs/cgroup", root, "kubepods*"), filepath.Join("/sys/fs/cgroup", "*", root, "kubepods*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("remove control groups: %w", err)
		}
		for _, top := range found {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			slices.Reverse(dirs)
			for _, d := range dirs {
				_ = syscall.Rmdir(d) // one with a process in it is not the kubelet's any more
			}
		}
	}
	return nil
}

func newResetCloud(w IO) *cobra.Command {
	var kubeconfig, service, config string
	var force bool
	c := &cobra.Command{
		Use:   "cloud",
		Short: "Remove CloudCore and all that init made, the edge CA included",
		Long: "Remove CloudCore, its rights, the edge CA, join tokens and identities. Edges go on with what they have; none of them can\n" +
			"connect again before it has joined again.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := confirmed(w, force, "Remove CloudCore and the edge CA? Every edge will have to join again."); err != nil {
				return err
			}
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			s, err := newService(service, "cloudcore", config, filepath.Join(filepath.Dir(config), "run"))
			if err != nil {
				return err
			}
			return resetCloud(c.Context(), w, client, s)
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	c.Flags().StringVar(&service, "service", serviceAuto, "how CloudCore was started, where it runs on this machine: see init")
	c.Flags().StringVar(&config, "config", "/etc/tether/cloudcore.yaml", "CloudCore's configuration file, where it runs on this machine")
	c.Flags().BoolVar(&force, "force", false, "ask nothing")
	choices(c, "service", services...)
	return c
}

func resetCloud(ctx context.Context, w IO, client *clusterClient, s *service) error {
	if err := s.remove(ctx); err != nil {
		return err
	}
	for _, p := range []string{s.config, filepath.Join(filepath.Dir(s.config), "cloudcore.kubeconfig")} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	removeEmpty(filepath.Dir(s.config))
	r, err := client.resources()
	if err != nil {
		return err
	}
	for _, manifests := range [][]byte{build.ConstrainedImpersonation(), build.LegacyImpersonation(), build.RBAC()} {
		objects, err := documents(manifests)
		if err != nil {
			return err
		}
		slices.Reverse(objects) // the namespace last
		for _, obj := range objects {
			c, err := r.of(obj)
			if err != nil {
				return err
			}
			if err := c.Delete(ctx, obj.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete %s %s: %w", obj.GetKind(), obj.GetName(), err)
			}
		}
	}
	return waitFor(ctx, w, 2*time.Minute, "the namespace to be gone", func(ctx context.Context) (bool, string) {
		_, err := client.CoreV1().Namespaces().Get(ctx, build.Namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, ""
		}
		return false, "it is still there"
	})
}
