package keadm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"
)

// selectedTail is how many lines of each container are shown of pods that a selector chose, as with kubectl.
const selectedTail = 10

// logFlags are what logs is asked for.
type logFlags struct {
	ctlFlags
	options                       corev1.PodLogOptions
	labels, sinceTime             string
	tail, limit                   int64
	since, patience               time.Duration
	allContainers, prefix, ignore bool
	atOnce                        int
}

func newCtlLogs(w IO) *cobra.Command {
	var f logFlags
	c := &cobra.Command{
		Use:   "logs POD [CONTAINER] | logs -l SELECTOR",
		Short: "Show what containers wrote",
		Long: "Show what containers wrote. Flags and output are kubectl's, but that this node knows pods and not what made them (no deploy/NAME,\n" +
			"no --all-pods: choose with -l), and that containers come in the pod's order.",
		Example: "  keadm ctl logs -f web-0\n" +
			"  keadm ctl logs web-0 -c proxy --previous --tail 100\n" +
			"  keadm ctl logs -l app=web --all-containers --prefix --since 10m",
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case f.labels != "" && len(args) > 0:
				return fmt.Errorf("%w: only a selector (-l) or a POD name is allowed", errUsage)
			case f.labels == "":
				return expects("a pod", cobra.RangeArgs(1, 2))(c, args)
			}
			return nil
		},
	}
	f.in(c)
	fl := c.Flags()
	fl.StringVarP(&f.options.Container, "container", "c", "", "the container (default: the pod's first)")
	fl.BoolVar(&f.allContainers, "all-containers", false, "of all containers")
	fl.StringVarP(&f.labels, "selector", "l", "", "of the pods with these labels, such as app=web,tier!=db")
	fl.BoolVar(&f.prefix, "prefix", false, "with pod and container before each line")
	fl.BoolVarP(&f.options.Follow, "follow", "f", false, "go on as they write more")
	fl.BoolVarP(&f.options.Previous, "previous", "p", false, "of the container before the last restart")
	fl.BoolVar(&f.options.Timestamps, "timestamps", false, "with the time of each line")
	fl.Int64Var(&f.tail, "tail", -1, fmt.Sprintf("only so many of the last lines; -1 is all, and with -l %d unless it is said", selectedTail))
	fl.Int64Var(&f.limit, "limit-bytes", 0, "only so many bytes; 0 is all")
	fl.DurationVar(&f.since, "since", 0, "only what is newer than this, such as 10m")
	fl.StringVar(&f.sinceTime, "since-time", "", "only what is newer than this time, such as 2030-06-01T12:00:00Z")
	fl.BoolVar(&f.ignore, "ignore-errors", false, "go on with the others when one cannot be read")
	fl.IntVar(&f.atOnce, "max-log-requests", 5, "how many containers may be followed at once")
	fl.DurationVar(&f.patience, "pod-running-timeout", 20*time.Second, "with -f: how long to wait for a container that is not running yet")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if err := f.check(c.Flags().Changed("tail"), args); err != nil {
			return err
		}
		list, err := g.logged(ctx, w, &f, args)
		if err != nil {
			return err
		}
		return g.logs(ctx, w, &f, list)
	})
	return c
}

// check finds faults of the flags and fills in the options. told: the number of lines was said.
func (f *logFlags) check(told bool, args []string) error {
	o := &f.options
	if len(args) == 2 {
		if o.Container != "" {
			return fmt.Errorf("%w: only one of -c or an inline [CONTAINER] arg is allowed", errUsage)
		}
		o.Container = args[1]
	}
	switch {
	case f.sinceTime != "" && f.since != 0:
		return fmt.Errorf("%w: at most one of --since and --since-time may be specified", errUsage)
	case f.allContainers && o.Container != "":
		return fmt.Errorf("%w: --all-containers=true should not be specified with container name %s", errUsage, o.Container)
	case f.limit < 0:
		return fmt.Errorf("%w: --limit-bytes must be greater than 0, found %d", errUsage, f.limit)
	case f.since < 0:
		return fmt.Errorf("%w: --since must be greater than 0, found %s", errUsage, f.since)
	case f.tail < -1:
		return fmt.Errorf("%w: --tail must be greater than or equal to -1, found %d", errUsage, f.tail)
	}
	if f.sinceTime != "" {
		t, err := time.Parse(time.RFC3339, f.sinceTime)
		if err != nil {
			return fmt.Errorf("%w: --since-time: expected a time such as 2030-06-01T12:00:00Z, found %q", errUsage, f.sinceTime)
		}
		o.SinceTime = new(metav1.NewTime(t))
	}
	if f.since > 0 {
		o.SinceSeconds = new(int64((f.since + time.Second - 1) / time.Second))
	}
	if f.limit > 0 {
		o.LimitBytes = &f.limit
	}
	switch {
	case f.labels != "" && !told:
		o.TailLines = new(int64(selectedTail))
	case f.tail >= 0:
		o.TailLines = &f.tail
	}
	return nil
}

// A containerLog is what one container wrote.
type containerLog struct{ namespace, pod, container string }

// logged chooses whose logs are meant.
func (g *gateway) logged(ctx context.Context, w IO, f *logFlags, args []string) ([]containerLog, error) {
	var pods []corev1.Pod
	if f.labels != "" {
		list, err := g.client.CoreV1().Pods(f.namespace).List(ctx, metav1.ListOptions{LabelSelector: f.labels})
		if err != nil {
			return nil, err
		}
		if pods = list.Items; len(pods) == 0 {
			f.none(w, false)
		}
	} else {
		pod, err := g.pod(ctx, f.namespace, args[0])
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("error from server (NotFound): %v in namespace %q", err, f.namespace)
		}
		if err != nil {
			return nil, err
		}
		pods = []corev1.Pod{*pod}
	}
	var out []containerLog
	for i := range pods {
		p := &pods[i]
		names := allContainers(p)
		if !f.allContainers {
			c, err := podcmd.FindOrDefaultContainerByName(p, f.options.Container, false, w.Err)
			if err != nil {
				return nil, err
			}
			names = []string{c.Name}
		}
		for _, name := range names {
			out = append(out, containerLog{p.Namespace, p.Name, name})
		}
	}
	return out, nil
}

// allContainers are the names of a pod's, those that start first before the others.
func allContainers(p *corev1.Pod) (names []string) {
	for i := range p.Spec.InitContainers {
		names = append(names, p.Spec.InitContainers[i].Name)
	}
	for i := range p.Spec.Containers {
		names = append(names, p.Spec.Containers[i].Name)
	}
	for i := range p.Spec.EphemeralContainers {
		names = append(names, p.Spec.EphemeralContainers[i].Name)
	}
	return names
}

// logs shows one after the other, or follows all at once.
func (g *gateway) logs(ctx context.Context, w IO, f *logFlags, list []containerLog) error {
	out := &lineWriter{out: w.Out}
	if !f.options.Follow || len(list) < 2 {
		for _, l := range list {
			if err := g.log(ctx, w, f, l, out); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) > f.atOnce {
		return fmt.Errorf("you are attempting to follow %d log streams, but maximum allowed concurrency is %d, use --max-log-requests to increase the limit", len(list), f.atOnce)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for _, l := range list {
		all.Go(func() {
			if err := g.log(ctx, w, f, l, out); err != nil {
				cancel(err) // the first error ends the others
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// log copies one log. One that is followed may be late: its container is started yet.
func (g *gateway) log(ctx context.Context, w IO, f *logFlags, l containerLog, out *lineWriter) error {
	o := f.options
	o.Container = l.container
	prefix := ""
	if f.prefix {
		prefix = fmt.Sprintf("[pod/%s/%s] ", l.pod, l.container)
	}
	deadline := time.Now().Add(f.patience)
	for {
		err := g.copyLog(ctx, l, &o, prefix, out)
		var status apierrors.APIStatus
		switch {
		case err == nil || ctx.Err() != nil:
			return nil // whoever followed has seen enough
		case f.ignore:
			return out.line("", fmt.Appendf(nil, "error: %v\n", err))
		case !o.Follow || !errors.As(err, &status) || time.Now().After(deadline):
			return err
		}
		fmt.Fprintln(w.Err, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(seldom):
		}
	}
}

func (g *gateway) copyLog(ctx context.Context, l containerLog, o *corev1.PodLogOptions, prefix string, out *lineWriter) error {
	stream, err := g.client.CoreV1().Pods(l.namespace).GetLogs(l.pod, o).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	for r := bufio.NewReader(stream); ; {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			if err := out.line(prefix, line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// A lineWriter keeps the lines of several logs apart.
type lineWriter struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (w *lineWriter) line(prefix string, b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if prefix != "" {
		b = append([]byte(prefix), b...)
	}
	_, err := w.out.Write(b)
	return err
}

// pod looks up POD or pod/POD.
func (g *gateway) pod(ctx context.Context, namespace, arg string) (*corev1.Pod, error) {
	name, err := podName(arg)
	if err != nil {
		return nil, err
	}
	return g.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}
