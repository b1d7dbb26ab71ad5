package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/drill"
)

func newCtlDrill(w IO) *cobra.Command {
	var f ctlFlags
	var output string
	c := &cobra.Command{
		Use:   "drill",
		Short: "Say how this node's drill goes, or went",
		Long: "Say how this node's drill goes, or how its last one went. Drills are ordered beside the cluster, with 'keadm drill';\n" +
			"one that cuts this node's link is ended here with 'keadm ctl drill stop', and by itself at its deadline.",
		Args: usage(cobra.NoArgs),
		RunE: f.on(func(ctx context.Context, g *gateway, _ []string) error {
			s, err := g.drill(ctx)
			if err != nil {
				return err
			}
			if s == nil {
				return errors.New("this node knows of no drill: expected one that was ordered with 'keadm drill' beside the cluster")
			}
			return show(w.Out, output, s, func(t io.Writer) { writeState(t, s) })
		}),
	}
	f.here(c)
	outputFlag(c, &output)
	c.AddCommand(newCtlDrillStop(w))
	return c
}

func newCtlDrillStop(w IO) *cobra.Command {
	var f ctlFlags
	c := &cobra.Command{
		Use:   "stop",
		Short: "End the drill that cuts this node's link",
		Args:  usage(cobra.NoArgs),
		RunE: f.on(func(ctx context.Context, g *gateway, _ []string) error {
			return g.stopDrill(ctx, w)
		}),
	}
	f.here(c)
	return c
}

// drill is what this node says of its drill, nil if nothing.
func (g *gateway) drill(ctx context.Context) (*drill.State, error) {
	n, err := g.client.CoreV1().Nodes().Get(ctx, g.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return stateOf(n)
}

// stopTimeout is how long edgecore has to heed a stop: it looks twice a second.
const stopTimeout = time.Minute

// stopDrill has the drill ended, and waits until it is.
func (g *gateway) stopDrill(ctx context.Context, w IO) error {
	s, err := g.drill(ctx)
	if err != nil {
		return err
	}
	if s == nil || s.Phase != drill.Cut && s.Phase != drill.Agreed {
		return errors.New("no drill cuts the link of this node; 'keadm ctl status' says how it is")
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{drill.AnnotationStop: s.ID}}})
	if err != nil {
		return err
	}
	if _, err := g.client.CoreV1().Nodes().Patch(ctx, g.cfg.NodeName, types.MergePatchType, body, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("stop drill %s: %w", s.ID, err)
	}
	id := s.ID
	return waitFor(ctx, w, stopTimeout, often, "drill "+id+" to be stopped", func(ctx context.Context) answer {
		s, err := g.drill(ctx)
		switch {
		case err != nil:
			return answer{missing: err.Error()}
		case s != nil && s.ID == id && (s.Phase == drill.Cut || s.Phase == drill.Agreed):
			return answer{missing: "it is " + string(s.Phase)}
		}
		return answer{ok: true}
	})
}
