package mqtt

import (
	"context"
	"log/slog"
)

// quiet is what the library logs to. It logs whole packets, with payloads and passwords, and warns of whatever a client
// does wrong: here these attributes are left out, and all but errors are for debugging.
type quiet struct{ slog.Handler }

// Enabled has a warning pass as what is for debugging.
func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, quieter(l))
}

// Handle passes a record on without what clients sent.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, quieter(r.Level), "MQTT broker: "+r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "pk", "packet", "will":
		default:
			out.AddAttrs(a)
		}
		return true
	})
	return q.Handler.Handle(ctx, out)
}

// WithAttrs and WithGroup keep it quiet.
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(n string) slog.Handler      { return quiet{q.Handler.WithGroup(n)} }

func quieter(l slog.Level) slog.Level {
	if l < slog.LevelError {
		return slog.LevelDebug
	}
	return l
}
