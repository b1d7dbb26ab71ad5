package keadm

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var (
	codeLine   = regexp.MustCompile(`^    (?:\$ )?((?:source <\()?keadm .*)$`)
	inlineCode = regexp.MustCompile("`(keadm [^`]*)`")
	words      = regexp.MustCompile(`'[^']*'|\S+`)
	// pipes ends what is keadm's on a line.
	pipes = regexp.MustCompile(`\s+[#|>].*$`)
)

// parse holds a command line against the commands that there are. part: it may lack the value of its last flag, and
// arguments.
func parse(line string, part bool) error {
	line = strings.TrimSuffix(strings.TrimPrefix(line, "source <("), ")")
	line = strings.TrimSuffix(pipes.ReplaceAllString(line, ""), ")")
	args := words.FindAllString(line, -1)[1:]
	for i := range args {
		args[i] = strings.Trim(args[i], "'")
	}
	root := Command(IO{Out: io.Discard, Err: io.Discard})
	root.InitDefaultHelpFlag()
	root.InitDefaultCompletionCmd(args...)
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	if err := c.ParseFlags(rest); err != nil && !(part && strings.Contains(err.Error(), "needs an argument")) {
		return err
	}
	if left := c.Flags().Args(); !part || c.HasSubCommands() && len(left) > 0 {
		return c.ValidateArgs(left)
	}
	return nil
}

// TestEveryCommandInTheDocumentsIsUnderstood: those of the documents, and the examples of the help.
func TestEveryCommandInTheDocumentsIsUnderstood(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	check := func(where, line string, part bool) {
		seen++
		if err := parse(line, part); err != nil {
			t.Errorf("%s: %s: %v", where, line, err)
		}
	}
	for _, f := range append(files, "../../README.md") {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if m := codeLine.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
				check(f, m[1], false)
				continue
			}
			for _, m := range inlineCode.FindAllStringSubmatch(line, -1) {
				check(f, m[1], true)
			}
		}
	}
	var examples func(c *cobra.Command)
	examples = func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "keadm ") {
				check("help of "+c.CommandPath(), line, false)
			}
		}
		for _, sub := range c.Commands() {
			examples(sub)
		}
	}
	examples(Command(IO{Out: io.Discard, Err: io.Discard}))
	if seen < 40 {
		t.Errorf("found %d command lines only: is the form of the documents another one?", seen)
	}
}

func TestTheGuideNamesEachFinding(t *testing.T) {
	b, err := os.ReadFile("../../docs/user-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range findingNames {
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("the user guide says nothing of `%s`", name)
		}
	}
}

func TestACommandLineOfTheDocumentsMayBeWrong(t *testing.T) {
	for line, part := range map[string]bool{
		"keadm frobnicate": true, "keadm join --no-such-flag x": true, "keadm certs revoke": false, "keadm token lst": true,
		"keadm join --token": false, "keadm debug diagnose edge cloud    # both": false,
	} {
		if err := parse(line, part); err == nil {
			t.Errorf("%q is taken for right", line)
		}
	}
}
