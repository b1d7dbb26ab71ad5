// Command image writes CloudCore's image, under the name that keadm init gives it, as an archive that container runtimes
// and registries' tools take: `make image` runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tether-edge/tether/build/images"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("expected the image's name, a directory and the linker's flags")
	}
	a, err := images.CloudCore(context.Background(), args[1], args[0], args[2])
	if err != nil {
		return err
	}
	fmt.Printf("wrote %s with %s\n", a.Path, a.Name)
	return nil
}
