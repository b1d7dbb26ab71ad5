// Command mapper runs one of the mappers that come with Tether, for simulated devices or for Modbus; see package cli.
package main

import (
	"os"

	"github.com/tether-edge/tether/edge/mappers/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
