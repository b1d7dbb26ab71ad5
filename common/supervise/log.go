package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
)

// LogSize is how many bytes a log may have before it is turned over.
const LogSize = 10 << 20

// logCheck is how often the size of a log is looked at.
const logCheck = 5 * time.Second

// A Log is a file that several programs append to, of bounded size: one that has grown beyond it becomes the former log,
// NAME.1, and begins anew. Whoever has it open goes on writing to the same file, so that neither a command nor what it
// leaves behind needs to know; what is written in the moment of the change, some microseconds, may be lost.
type Log struct {
	file  *os.File
	max   int64
	check time.Duration
}

// OpenLog opens or makes the file.
func OpenLog(path string, max int64) (*Log, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return &Log{file: f, max: max, check: logCheck}, nil
}

// FormerLog is the name of the log before that of this name.
func FormerLog(path string) string { return path + ".1" }

// File is what to write to.
func (l *Log) File() *os.File { return l.file }

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }

// watch bounds the log until ctx is done.
func (l *Log) watch(ctx context.Context, log *slog.Logger) {
	t := time.NewTicker(l.check)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := l.bound(); err != nil {
				log.Error("the log begins anew, the former one is lost", "err", err)
			}
		}
	}
}

// bound turns the log over if it has grown too large. An error means that its former part is lost: the disk may be full,
// and a log must not fill it.
func (l *Log) bound() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() <= l.max {
		return nil
	}
	// Of what came too fast the end is kept.
	err = l.keep(max(0, info.Size()-l.max))
	if err != nil {
		err = errors.Join(err, remove(FormerLog(l.file.Name())))
	}
	return errors.Join(err, l.file.Truncate(0))
}

// keep makes what the log has from an offset on the former log.
func (l *Log) keep(from int64) error {
	name := FormerLog(l.file.Name())
	w, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	// Up to where it is now: a program that writes faster than this copies must not lead it on.
	info, err := l.file.Stat()
	if err == nil {
		_, err = io.Copy(w, io.NewSectionReader(l.file, from, info.Size()-from))
	}
	return errors.Join(err, w.Close())
}

func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
