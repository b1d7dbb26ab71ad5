package keadm

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/run"
	"github.com/tether-edge/tether/common/supervise"
)

func newSupervise(w IO) *cobra.Command {
	var cfg supervise.Config
	c := &cobra.Command{
		Use:   "supervise [flags] -- PROGRAM [ARGUMENT...]",
		Short: "Keep a program running on a host without systemd",
		Long: "Run a program, start it again within a second whenever it ends, and end it on SIGTERM.\n" +
			"For edgecore on hosts without systemd: keadm supervise -- edgecore --config /etc/tether/edgecore.yaml",
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 0 || len(args) == 0 {
				return fmt.Errorf("%w: expected -- and the program to run", errUsage)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			log, err := run.Logger(w.Err, "info", "text")
			if err != nil {
				return err
			}
			cfg.Command = args
			s, err := supervise.New(cfg, log)
			if err != nil {
				return err
			}
			return s.Start(c.Context())
		},
	}
	c.Flags().StringVar(&cfg.PIDFile, "pid-file", "", "file for this supervisor's process id")
	c.Flags().StringVar(&cfg.ChildPIDFile, "child-pid-file", "", "file for the program's process id")
	c.Flags().DurationVar(&cfg.StopTimeout, "stop-timeout", 30*time.Second, "how long the program may take to end before it is killed; 0 waits for ever")
	return c
}
