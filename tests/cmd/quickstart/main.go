// Command quickstart brings up a whole Tether system on one machine and leaves it running: a stock control plane, the
// cloud's side, and one edge node with a network and a container runtime of its own.
//
// It promises to say what it does and how long it took, to work again after it was interrupted, to leave alone what
// the machine already runs, and to take away with `down` everything that `up` made. `make quickstart`, `make status`,
// `make cut`, `make heal` and `make down` call it; its state is in .tether/run.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: quickstart VERB

  up      bring the system up (what an earlier run left is removed first) and show what it can do
  status  what runs, and the nodes and pods
  cut     take the edge's cable out
  heal    put it back
  down    end everything and remove it
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	code, words := verdict(err, interrupted)
	fmt.Fprint(os.Stderr, words)
	os.Exit(code)
}

// verdict turns the end of a run into an exit code and the last words to a person.
func verdict(err error, interrupted bool) (code int, words string) {
	switch {
	case err == nil:
		return 0, ""
	case errors.Is(err, errUsage):
		return 2, usage
	case interrupted:
		return 130, "\ninterrupted; `make quickstart` starts anew, `make down` removes what is there\n"
	}
	return 1, fmt.Sprintf("\n%v\n", err)
}

// errUsage says that the command line is not understood.
var errUsage = errors.New("expected one verb")

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) != 1 {
		return errUsage
	}
	verbs := map[string]func(context.Context, *place, io.Writer) error{
		"up": up, "status": status, "cut": cut, "heal": heal, "down": down,
	}
	verb, known := verbs[args[0]]
	if !known {
		return errUsage
	}
	p, err := findPlace(ctx)
	if err != nil {
		return err
	}
	return verb(ctx, p, out)
}
