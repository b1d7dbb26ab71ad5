package keadm

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// withHelpers gives the root cobra's commands help and completion, whose own way with a word that they do not know is to
// print help and exit with 0.
func withHelpers(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Short = "Tell about a command"
			c.Long = "Tell what a command does and what it takes: 'keadm help token create' is 'keadm token create --help'."
			c.Run, c.RunE = nil, help
		case "completion":
			c.Short = "Print a script that makes a shell complete keadm's commands and flags"
			c.Long = "Print a script that makes a shell complete keadm's commands and flags with the Tab key.\n" +
				"'keadm completion bash --help' says where to put it, and so for the other shells."
			c.Args = usage(cobra.NoArgs)
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
			for _, shell := range c.Commands() {
				shell.Short = "Print the script for " + shell.Name()
				shell.Args = usage(cobra.NoArgs)
			}
		}
	}
}

func help(c *cobra.Command, words []string) error {
	about, rest, err := c.Root().Find(words)
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("%w: there is no command %q", errUsage, strings.Join(words, " "))
	}
	about.InitDefaultHelpFlag()
	return about.Help()
}

// choices makes shells complete a flag's values.
func choices(c *cobra.Command, flag string, values ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the command has no such flag
	}
}
