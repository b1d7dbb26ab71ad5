package kubelet

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"k8s.io/klog/v2"
)

// routeLogs sends klog, which is process-wide, to log, and the words of every error to note. Start calls it once, before
// anything of the kubelet runs: klog's settings are not safe to change later.
func routeLogs(log *slog.Logger, verbosity int, note func(words string)) error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Set("v", strconv.Itoa(verbosity)); err != nil {
		return fmt.Errorf("set the kubelet's log verbosity: %w", err)
	}
	words := &lastWords{note: note}
	klog.SetSlogLogger(slog.New(&logHandler{next: log.Handler(), lowest: slog.Level(-verbosity), words: words}))
	klog.OsExit = func(code int) {
		words.fatal()
		os.Exit(code)
	}
	return nil
}

// lastWords keeps what the kubelet said last, in case that it ends the process: before os.Exit it logs an error, and
// klog.Fatal hands its words to the logger at info level before it calls OsExit.
type lastWords struct {
	note func(string)
	info atomic.Pointer[string] // the last line at info level
}

func (w *lastWords) record(r slog.Record) {
	if r.Level < slog.LevelInfo {
		return
	}
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" { // logr's key for the error of an Error line
			fmt.Fprintf(&b, ": %v", a.Value)
		}
		return true
	})
	said := b.String()
	if r.Level >= slog.LevelError {
		w.note(said)
		return
	}
	w.info.Store(&said)
}

func (w *lastWords) fatal() {
	if said := w.info.Load(); said != nil {
		w.note(*said)
	}
}

// logHandler passes klog's records on to a handler that knows nothing of V levels.
type logHandler struct {
	next   slog.Handler
	lowest slog.Level
	words  *lastWords
}

// Enabled implements slog.Handler: klog's V(n) arrives as level -n.
func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.lowest }

// Handle implements slog.Handler.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	h.words.record(r)
	r.Level = max(r.Level, slog.LevelInfo) // the verbosity has chosen already
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{next: h.next.WithAttrs(attrs), lowest: h.lowest, words: h.words}
}

// WithGroup implements slog.Handler.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{next: h.next.WithGroup(name), lowest: h.lowest, words: h.words}
}
