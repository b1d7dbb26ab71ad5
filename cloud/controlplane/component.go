package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	_ "time/tzdata" // time zones of CronJobs, on machines that have none

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/cli"
	basecompatibility "k8s.io/component-base/compatibility"
	logsapi "k8s.io/component-base/logs/api/v1"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	apiserveroptions "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

const (
	nameEtcd              = "etcd"
	nameAPIServer         = "kube-apiserver"
	nameControllerManager = "kube-controller-manager"
	nameScheduler         = "kube-scheduler"

	// componentVerb is the first argument of a re-executed process.
	componentVerb = "component"
	// alsoListen is the one flag of ours: kube-apiserver itself serves a single address.
	alsoListen = "--also-listen="
)

var componentNames = []string{nameEtcd, nameAPIServer, nameControllerManager, nameScheduler}

// IsComponent says whether args (without the program's name) ask for a component.
// A program that calls [ControlPlane.Start] must check this first, and hand
// over to [RunComponent] if so, since Start re-executes the program.
func IsComponent(args []string) bool { return len(args) >= 2 && args[0] == componentVerb }

// RunComponent runs the component that args name until it ends or is told to by
// SIGTERM, and returns the exit code for the process. Call it once per process.
func RunComponent(args []string) int {
	if !IsComponent(args) {
		fmt.Fprintf(os.Stderr, "expected %s NAME --flags, found %q\n", componentVerb, args)
		return 2
	}
	name, flags := args[1], args[2:]
	var command *cobra.Command
	switch name {
	case nameEtcd:
		etcdmain.Main(append([]string{name}, flags...))
		return 0
	case nameAPIServer:
		command, flags = apiServerCommand(flags)
	case nameControllerManager:
		command = controllermanager.NewControllerManagerCommand()
	case nameScheduler:
		command = scheduler.NewSchedulerCommand()
	default:
		fmt.Fprintf(os.Stderr, "expected one of %s, found %q\n", strings.Join(componentNames, ", "), name)
		return 2
	}
	command.SetArgs(flags)
	return cli.Run(command)
}

// apiServerCommand is upstream's API server with upstream's flags, on several
// listening sockets: real ones, so that the server sees its clients' addresses.
func apiServerCommand(args []string) (*cobra.Command, []string) {
	var flags, also []string
	for _, a := range args {
		if address, ok := strings.CutPrefix(a, alsoListen); ok {
			also = append(also, address)
		} else {
			flags = append(flags, a)
		}
	}
	opts := apiserveroptions.NewServerRunOptions()
	globals := opts.GenericServerRunOptions.ComponentGlobalsRegistry
	command := &cobra.Command{
		Use:          nameAPIServer,
		SilenceUsage: true,
		Args:         cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			// The API server is its own client; warnings of its own API to itself are noise.
			rest.SetDefaultWarningHandler(rest.NoWarnings{})
			return globals.Set()
		},
		RunE: func(*cobra.Command, []string) error {
			gates := globals.FeatureGateFor(basecompatibility.DefaultKubeComponent)
			if err := logsapi.ValidateAndApply(opts.Logs, gates); err != nil {
				return fmt.Errorf("logging flags: %w", err)
			}
			return runAPIServer(genericapiserver.SetupSignalContext(), opts, also)
		},
	}
	sets := opts.Flags()
	opts.Flagz = flagz.NamedFlagSetsReader{FlagSets: sets}
	for _, set := range sets.FlagSets {
		command.Flags().AddFlagSet(set)
	}
	return command, flags
}

func runAPIServer(ctx context.Context, opts *apiserveroptions.ServerRunOptions, also []string) error {
	addresses := append([]string{opts.SecureServing.BindAddress.String()}, also...)
	sockets, err := listenAll(addresses, opts.SecureServing.BindPort)
	if err != nil {
		return err
	}
	opts.SecureServing.Listener = newMultiListener(sockets)
	completed, err := opts.Complete(ctx)
	if err != nil {
		return fmt.Errorf("complete flags: %w", err)
	}
	if faults := completed.Validate(); len(faults) > 0 {
		return errors.Join(faults...)
	}
	opts.GenericServerRunOptions.ComponentGlobalsRegistry.AddMetrics()
	return apiserver.Run(ctx, completed)
}
