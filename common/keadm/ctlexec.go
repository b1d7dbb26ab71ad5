package keadm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	terminal "golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/kubectl/pkg/cmd/util/podcmd"
)

// exitStatus is the exit code of a command that ran in a container; keadm passes it on.
type exitStatus int

func (e exitStatus) Error() string {
	return fmt.Sprintf("command terminated with exit code %d", int(e))
}

func newCtlExec(w IO) *cobra.Command {
	var f ctlFlags
	var o corev1.PodExecOptions
	var quiet bool
	c := &cobra.Command{
		Use:   "exec POD -- COMMAND [ARG...]",
		Short: "Run a command in a container of a pod",
		Long: "Run a command in a container of a pod. The exit code is the command's. Flags and output are kubectl's, but that this node\n" +
			"knows pods and not what made them (no deploy/NAME, no -f), and that it does not wait for a pod to run.",
		Example: "  keadm ctl exec web-0 -- cat /etc/hosts\n" +
			"  keadm ctl exec -it web-0 -c proxy -- sh",
		Args: usage(func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("expected a pod, -- and the command")
			}
			return nil
		}),
	}
	f.in(c)
	fl := c.Flags()
	fl.StringVarP(&o.Container, "container", "c", "", "the container (default: the pod's first)")
	fl.BoolVarP(&o.Stdin, "stdin", "i", false, "pass standard input on")
	fl.BoolVarP(&o.TTY, "tty", "t", false, "give it a terminal")
	fl.BoolVarP(&quiet, "quiet", "q", false, "write only what it writes")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		pod, err := g.pod(ctx, f.namespace, args[0])
		if err != nil {
			return err
		}
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return fmt.Errorf("cannot exec into a container in a completed pod; current phase is %s", pod.Status.Phase)
		}
		in, err := podcmd.FindOrDefaultContainerByName(pod, o.Container, quiet, w.Err)
		if err != nil {
			return err
		}
		o.Container, o.Command = in.Name, args[1:]
		return g.exec(ctx, w, pod, &o, quiet)
	})
	return c
}

// exec runs a command and waits for its end. An exit code other than 0 is an exitStatus.
func (g *gateway) exec(ctx context.Context, w IO, pod *corev1.Pod, o *corev1.PodExecOptions, quiet bool) error {
	streams := remotecommand.StreamOptions{Stdout: w.Out, Stderr: w.Err}
	if o.Stdin {
		streams.Stdin = w.In
	}
	o.TTY = o.TTY && o.Stdin // there is none without a keyboard
	if in, ok := w.In.(*os.File); o.TTY && ok && terminal.IsTerminal(int(in.Fd())) {
		sizes, restore, err := rawTerminal(ctx, in)
		if err != nil {
			return err
		}
		defer restore()
		streams.TerminalSizeQueue = sizes
	} else if o.TTY {
		o.TTY = false
		if !quiet {
			fmt.Fprintln(w.Err, "Unable to use a TTY - input is not a terminal or the right kind of file")
		}
	}
	streams.Tty = o.TTY
	o.Stdout, o.Stderr = true, !o.TTY // a terminal has one output
	if o.TTY {
		streams.Stderr = nil
	}
	request := g.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").VersionedParams(o, scheme.ParameterCodec)
	executor, err := remotecommand.NewSPDYExecutor(g.rest, "POST", request.URL())
	if err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, streams)
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return exitStatus(exit.Code)
	}
	return err
}

// terminalSizes tells the size of a terminal at first and whenever it changes.
type terminalSizes struct {
	ctx     context.Context
	in      *os.File
	changed chan os.Signal
	told    bool
}

// rawTerminal hands the keyboard to the other side, up to restore.
func rawTerminal(ctx context.Context, in *os.File) (sizes *terminalSizes, restore func(), err error) {
	state, err := terminal.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	sizes = &terminalSizes{ctx: ctx, in: in, changed: make(chan os.Signal, 1)}
	signal.Notify(sizes.changed, syscall.SIGWINCH)
	return sizes, func() {
		cancel()
		signal.Stop(sizes.changed)
		_ = terminal.Restore(int(in.Fd()), state) // the terminal is gone, and so is whoever would be told
	}, nil
}

// Next implements remotecommand.TerminalSizeQueue.
func (s *terminalSizes) Next() *remotecommand.TerminalSize {
	if s.told {
		select {
		case <-s.changed:
		case <-s.ctx.Done():
			return nil
		}
	}
	s.told = true
	width, height, err := terminal.GetSize(int(s.in.Fd()))
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}
