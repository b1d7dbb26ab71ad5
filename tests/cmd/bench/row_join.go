package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tether-edge/tether/tests/cluster"
)

// joinLimit is within how many seconds keadm join is to show a Ready node, its images present.
const joinLimit = 20

// measureJoin runs keadm join on a machine that was never a node, until it says that the node is Ready.
func measureJoin(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	keadm, err := cluster.Program(ctx, "keadm")
	if err != nil {
		return s.down(err)
	}
	var took []float64
	for i := range b.times(false) {
		h, err := s.host(ctx, fmt.Sprintf("edge-%d", i))
		if err != nil {
			return s.down(err)
		}
		args, err := s.JoinArgs(ctx, h)
		if err != nil {
			return s.down(err)
		}
		start := time.Now()
		if _, err := h.Run(ctx, append(append([]string{keadm}, args...), "--service", "process")...); err != nil {
			return s.down(err)
		}
		took = append(took, time.Since(start).Seconds())
	}
	b.figure(Figure{What: "keadm join until the node is Ready", Unit: "s", Limit: atMost(joinLimit), Values: took,
		Note: "preflight, certificate, start of edgecore and kubelet; the pause image is there"})
	return s.down(nil)
}
