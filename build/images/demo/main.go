// Command demo is the application of the quickstart and the tests: a small HTTP server whose answers show what
// matters about a container, and a few sub-commands for pods that are to do one thing.
//
// It promises that its answers are enough to see a restart (start time and a count of the requests since then), a new
// container (host name), and the state of a mounted file, and that it needs nothing but itself: the image has no shell.
// Nothing of Tether's imports it; it is built into the image tether.local/demo:v1.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const usage = `usage: demo [serve [--addr :8080] [--message-file FILE]]
       demo exit CODE
       demo sleep [SECONDS]        without a number until it is told to go
       demo count                  numbers to standard output, five a second, until it is told to go
       demo again FILE             fails the first time, and makes the file; with it, waits until it is told to go
       demo cat FILE...
       demo write FILE TEXT
       demo zeros BYTES            to standard output
       demo lines COUNT [FILE]     numbered, of 100 bytes each, to standard output or a file that is there
       demo get URL [TOKENFILE]    status and beginning of the answer, of a server that need not be known
       tar cf - PATH, tar xmf - -C DIRECTORY    as kubectl cp calls it
`

func main() {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == "tar" {
		args = append([]string{"tar"}, args...)
	}
	code, err := run(args, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	os.Exit(code)
}

// run does what the arguments say and returns the exit code.
func run(args []string, out io.Writer) (int, error) {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	switch name, rest := args[0], args[1:]; name {
	case "serve":
		return check(serve(rest, out))
	case "exit":
		return exit(rest)
	case "sleep":
		return check(sleep(rest))
	case "count":
		return check(count(out))
	case "again":
		return check(again(rest, out))
	case "cat":
		return check(cat(rest, out))
	case "write":
		return check(write(rest))
	case "zeros":
		return check(zeros(rest, out))
	case "lines":
		return check(lines(rest, out))
	case "get":
		return check(get(rest, out))
	case "tar":
		return check(tarCommand(rest, os.Stdin, out))
	}
	return 2, fmt.Errorf("expected serve, exit, sleep, count, again, cat, write, zeros, lines, get or tar, found %q\n%s", args[0], usage)
}

func check(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func exit(args []string) (int, error) {
	if len(args) != 1 {
		return 2, errors.New("exit: expected one exit code")
	}
	code, err := strconv.Atoi(args[0])
	if err != nil || code < 0 || code > 255 {
		return 2, fmt.Errorf("exit: expected a number from 0 to 255, found %q", args[0])
	}
	return code, nil
}

// sleep waits for a number of seconds or, without one, until SIGTERM or SIGINT. As process 1 of a container it must
// ask for the signals: the kernel delivers none there that is not asked for.
func sleep(args []string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	var done <-chan time.Time
	if len(args) > 0 {
		seconds, err := strconv.ParseFloat(args[0], 64)
		if err != nil || seconds < 0 {
			return fmt.Errorf("sleep: expected a number of seconds, found %q", args[0])
		}
		done = time.After(time.Duration(seconds * float64(time.Second)))
	}
	select {
	case <-signals:
	case <-done:
	}
	return nil
}

// count writes numbers until SIGTERM or SIGINT: who reads them sees what is missing.
func count(out io.Writer) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		if _, err := fmt.Fprintln(out, n); err != nil {
			return err
		}
		select {
		case <-signals:
			return nil
		case <-tick.C:
		}
	}
}

// again is for a container that has exactly one predecessor, which failed.
func again(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("again: expected a file")
	}
	if err := cat(args, out); err != nil {
		return errors.Join(err, write([]string{args[0], "it was here before\n"}))
	}
	return sleep(nil)
}

func cat(paths []string, out io.Writer) error {
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("cat: %w", err)
		}
		_, err = io.Copy(out, file)
		if err = errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("cat %s: %w", path, err)
		}
	}
	return nil
}

// zeros writes a number of bytes, for measurements.
func zeros(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("zeros: expected a number of bytes")
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("zeros: expected a number of bytes, found %q", args[0])
	}
	for block := make([]byte, 64<<10); n > 0; n -= int64(len(block)) {
		if _, err := out.Write(block[:min(n, int64(len(block)))]); err != nil {
			return fmt.Errorf("zeros: %w", err)
		}
	}
	return nil
}

// lines writes numbers from 0 on, in lines of 100 bytes, as fast as they are taken: for measurements. /proc/1/fd/1 is the log of
// the container.
func lines(args []string, out io.Writer) error {
	if len(args) != 1 && len(args) != 2 {
		return errors.New("lines: expected a number of lines and perhaps a file")
	}
	count, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || count < 0 {
		return fmt.Errorf("lines: expected a number of lines, found %q", args[0])
	}
	if len(args) == 2 {
		file, err := os.OpenFile(args[1], os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return fmt.Errorf("lines: %w", err)
		}
		return errors.Join(number(file, count), file.Close())
	}
	return number(out, count)
}

func number(out io.Writer, count int64) error {
	block := make([]byte, 0, 64<<10)
	for n := range count {
		if block = fmt.Appendf(block, "%099d\n", n); len(block) > cap(block)-100 || n == count-1 {
			if _, err := out.Write(block); err != nil {
				return fmt.Errorf("lines: %w", err)
			}
			block = block[:0]
		}
	}
	return nil
}

func write(args []string) error {
	if len(args) != 2 {
		return errors.New("write: expected a file and a text")
	}
	if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
