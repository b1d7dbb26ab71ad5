// Package cli is the command line of the mappers that come with Tether: mapper virtual and mapper modbus. Command mapper uses it.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/tether-edge/tether/common/mapper"
	"github.com/tether-edge/tether/common/mapper/mqttpush"
	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/version"
	"github.com/tether-edge/tether/edge/mappers/modbus"
	"github.com/tether-edge/tether/edge/mappers/virtual"
)

const usage = `mapper connects devices to the edge core of this machine.

Usage: mapper PROTOCOL [flags]

Protocols:
  virtual   simulated devices: waveforms, and properties that can be set
  modbus    Modbus TCP and RTU

Flags:
`

// Main runs a mapper until it is told to stop, and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := run.Signals(context.Background())
	defer stop()
	return main(ctx, args, stdout, stderr)
}

func main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("mapper", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	edge := flags.String("edge-socket", "/etc/kubeedge/dmi.sock", "where the edge core listens for mappers")
	socket := flags.String("socket", "", "where this mapper listens for the edge core (default mapper-PROTOCOL.sock beside --edge-socket)")
	protocol := flags.String("protocol", "", "the protocolName of its devices, where that is another than PROTOCOL")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	showVersion := flags.Bool("version", false, "print the version")
	kind := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		kind, args = args[0], args[1:]
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if *showVersion {
		fmt.Fprintln(stdout, version.String("mapper"))
		return 0
	}
	options := mapper.Options{Name: "tether-" + kind, Version: version.Get().Version, Socket: *socket, EdgeSocket: *edge, Push: map[string]mapper.NewPush{"mqtt": mqttpush.New()}}
	switch kind {
	case "virtual":
		options.Protocol, options.Open = "virtual", virtual.Open
	case "modbus":
		options.Protocol, options.Open = "modbus", modbus.New().Open
	default:
		fmt.Fprintf(stderr, "mapper: expected a protocol, virtual or modbus, found %q. Try: mapper --help\n", kind)
		return 2
	}
	if *protocol != "" {
		options.Protocol = *protocol
	}
	log, err := run.Logger(stderr, *level, "text")
	if err != nil {
		fmt.Fprintln(stderr, "mapper:", err)
		return 2
	}
	options.Log = log
	if err := mapper.Run(ctx, options); err != nil {
		fmt.Fprintln(stderr, "mapper:", err)
		return 1
	}
	return 0
}
