// Command keadm sets up both ends of Tether: see `keadm help`.
package main

import (
	"context"
	"os"
	"time"

	"github.com/tether-edge/tether/common/keadm"
	"github.com/tether-edge/tether/common/run"
)

func main() {
	ctx, stop := run.Signals(context.Background())
	code := keadm.Run(ctx, os.Args[1:], keadm.IO{Out: os.Stdout, Err: os.Stderr, In: os.Stdin, Now: time.Now})
	stop()
	os.Exit(code)
}
