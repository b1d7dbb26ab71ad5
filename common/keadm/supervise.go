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
	var logFile string
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
			out := w.Err
			if logFile != "" {
				l, err := supervise.OpenLog(logFile, supervise.LogSize)
				if err != nil {
					return err
				}
				defer l.Close()
				cfg.Log, out = l, l.File()
			}
			log, err := run.Logger(out, "info", "text")
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
	c.Flags().StringVar(&logFile, "log-file", "", fmt.Sprintf("file for what both write, instead of standard output and error; beyond %d MiB it becomes FILE.1 and begins anew", supervise.LogSize>>20))
	c.Flags().DurationVar(&cfg.StopTimeout, "stop-timeout", 30*time.Second, "how long the program may take to end before it is killed; 0 waits for ever")
	return c
}
