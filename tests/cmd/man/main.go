// Command man writes a manual page for each of keadm's commands into a directory. It is a program of its own so that keadm
// does not carry what turns its help into pages; `make man` runs it.
package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra/doc"

	"github.com/tether-edge/tether/common/keadm"
	"github.com/tether-edge/tether/common/version"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "man: expected one argument, the directory to write into, found %d\n", len(os.Args)-1)
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "man: write manual pages: %v\n", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := keadm.Command(keadm.IO{Out: io.Discard, Err: io.Discard, Now: time.Now})
	root.DisableAutoGenTag = true // the same help makes the same pages
	return doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "Tether " + version.Get().Version, Manual: "Tether"}, dir)
}
