package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tether-edge/tether/tests/cluster"
)

// measureSizes reads the sizes of the programs, in millions of bytes.
func measureSizes(ctx context.Context, b *bench) error {
	for _, p := range []struct {
		name  string
		limit float64
	}{{"edgecore", 66}, {"cloudcore", 60}, {"keadm", 50}} {
		path, err := cluster.Program(ctx, p.name)
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("look at the size of %s: %w", p.name, err)
		}
		b.figure(Figure{What: "binary " + p.name, Unit: "MB", Limit: atMost(p.limit), Values: []float64{float64(info.Size()) / 1e6}})
	}
	return nil
}
