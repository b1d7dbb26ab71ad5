// Package keadm holds the commands of keadm, the tool that sets up CloudCore and edge nodes.
//
// It promises that every failure says what was expected, what was found and how to mend it, on standard error; that
// standard output ends with what to do next; and that the exit code is 0 for done, 1 for failed and 2 for a command line
// that it does not understand; that of `keadm ctl exec` is the command's own. common/cmd/keadm is its main.
package keadm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/version"
)

// IO is what the commands know of the world around them.
type IO struct {
	Out, Err io.Writer
	In       io.Reader
	Now      pki.Clock
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage marks a command line that keadm does not understand.
var errUsage = errors.New("usage")

// Run executes the command line and returns the exit code.
func Run(ctx context.Context, args []string, w IO) int {
	root := Command(w)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errUsage) {
		fmt.Fprintf(w.Err, "keadm: %s\nRun '%s --help' to see what it takes.\n", strings.TrimPrefix(err.Error(), errUsage.Error()+": "), cmd.CommandPath())
		return exitUsage
	}
	if said := (apiSaid)(nil); errors.As(err, &said) {
		fmt.Fprintln(w.Err, said)
		return exitFailed
	}
	fmt.Fprintf(w.Err, "keadm: %v\n", err)
	if status := exitStatus(0); errors.As(err, &status) {
		return int(status)
	}
	return exitFailed
}

// Command returns keadm's commands, for those who document them.
func Command(w IO) *cobra.Command {
	var tellVersion bool
	root := &cobra.Command{
		Use:   "keadm",
		Short: "Set up Tether: CloudCore beside a cluster, and edge nodes",
		Long: "Set up Tether, which ties edge nodes to a Kubernetes cluster: CloudCore beside the cluster, edgecore on each node.\n" +
			"'keadm init' sets up the one and prints the line, a 'keadm join', that makes a machine the other.",
		Example: "  keadm init --local --advertise-address cloud.example.org                  # on a machine with the cluster's kubeconfig\n" +
			"  keadm join --cloudcore-ipport cloud.example.org:10000 --token TOKEN       # on the edge node, as root\n" +
			"  keadm ctl status                                                          # on the edge node: how it is\n" +
			"  keadm debug diagnose edge                                                 # on the edge node, if it is not well",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if tellVersion {
				_, err := fmt.Fprintln(w.Out, version.String("keadm"))
				return err
			}
			return c.Help()
		},
	}
	// Cobra's own flag wants a text/template for the line, which turns off the linker's dead-code elimination.
	root.Flags().BoolVarP(&tellVersion, "version", "v", false, "print the version of this build")
	root.SetOut(w.Out)
	root.SetErr(w.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"cloud", "Beside the cluster:", []*cobra.Command{newInit(w), newGetToken(w), newTokens(w), newCerts(w), newNode(w), newDrill(w), newConfig(w)}},
		{"edge", "At an edge node:", []*cobra.Command{newJoin(w), newCtl(w), newCheck(w), newDebug(w), newSupervise(w)}},
		{"both", "At both:", []*cobra.Command{newReset(w), newVersion(w)}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("both")
	root.SetCompletionCommandGroupID("both")
	withHelpers(root)
	return root
}

// newGroup returns a command that only holds others.
func newGroup(name, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:                   name,
		Short:                 short,
		DisableFlagsInUseLine: true,
		Args:                  usage(cobra.NoArgs),
		RunE:                  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(children...)
	return c
}

func newVersion(w IO) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this build",
		Args:  usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return show(w.Out, output, version.Get(), func(t io.Writer) { fmt.Fprintln(t, version.String("keadm")) })
		},
	}
	outputFlag(c, &output)
	return c
}

// expects is for a command line with another number of arguments than check wants: what it is to have says more than how
// many.
func expects(what string, check cobra.PositionalArgs) cobra.PositionalArgs {
	return usage(func(c *cobra.Command, args []string) error {
		if check(c, args) == nil {
			return nil
		}
		return fmt.Errorf("expected %s, found %s", what, cmp.Or(strings.Join(args, " "), "none"))
	})
}

// positive makes a time that leaves no time a usage error.
func positive(flag string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%w: --%s: expected more than 0, such as 2m, found %s", errUsage, flag, d)
	}
	return nil
}

// usage makes a wrong number of arguments a usage error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		return nil
	}
}
