package link

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// writer puts frames on the stream beside the session's loop, so that neither end waits for the other to read. What
// waits for it is bounded by the windows of the session: one inventory, 64 writes, the acknowledgements.
type writer struct {
	stream  transport.Stream
	metrics *metrics
	failed  chan error
	done    chan struct{}
	more    chan struct{}

	// mu guards queue.
	mu    sync.Mutex
	queue []*wire.Frame
}

func newWriter(s transport.Stream, m *metrics) *writer {
	return &writer{stream: s, metrics: m, failed: make(chan error, 1), done: make(chan struct{}), more: make(chan struct{}, 1)}
}

func (w *writer) send(f *wire.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Acknowledgements are cumulative: one that was not yet sent is replaced.
	if n := len(w.queue); n > 0 && f.GetAck() != nil && w.queue[n-1].GetAck() != nil {
		w.queue[n-1] = f
	} else {
		w.queue = append(w.queue, f)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// next takes the frame to be written next, nil if there is none: a ping or its answer before all others, since they say that this edge is here.
func (w *writer) next() *wire.Frame {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil
	}
	i := max(0, slices.IndexFunc(w.queue, func(f *wire.Frame) bool { return f.GetPing() != nil || f.GetPong() != nil }))
	f := w.queue[i]
	w.queue = slices.Delete(w.queue, i, i+1)
	return f
}

// writeSize is how much is written at once, in bytes, but for larger frames: what is urgent waits for no more.
const writeSize = 64 << 10

// run writes until ctx is done, what was queued until then included.
func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	var buf wire.Buffer
	for stopping := false; !stopping; {
		select {
		case <-w.more:
		case <-ctx.Done():
			stopping = true
		}
		for f := w.next(); f != nil; f = w.next() {
			var err error
			for ; f != nil && err == nil; f = w.next() {
				if err = buf.Append(f); buf.Len() >= writeSize {
					break
				}
			}
			if err == nil {
				err = w.stream.WriteAll(buf.Chunks(), time.Minute)
				w.metrics.bytesOut.Add(float64(buf.Len()))
			}
			if err != nil {
				w.failed <- err
				return
			}
			buf.Reset()
		}
	}
}
