// Command filemapper is the example of docs/mappers.md: a mapper for devices whose properties are files.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tether-edge/tether/common/mapper"
)

// A directory is one device.
type directory struct{ root *os.Root }

// open reaches a device: its configData says where it is.
func open(_ context.Context, d mapper.Device) (mapper.Driver, error) {
	var config struct {
		Path string `json:"path"`
	}
	if err := d.Config.Into(&config); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(config.Path)
	if err != nil {
		return nil, err // the device is offline, and tried again
	}
	return directory{root}, nil
}

func (d directory) Read(_ context.Context, p mapper.Property) (string, error) {
	data, err := d.root.ReadFile(p.Name)
	return strings.TrimSpace(string(data)), err
}

func (d directory) Write(_ context.Context, p mapper.Property, value string) error {
	return d.root.WriteFile(p.Name, []byte(value+"\n"), 0o644)
}

func (d directory) Close() error { return d.root.Close() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	options := mapper.Options{Protocol: "file", Open: open, EdgeSocket: os.Getenv("DMI_SOCKET")}
	if err := mapper.Run(ctx, options); err != nil {
		log.Fatal(err)
	}
}
