package statetest

import (
	"sync"

	"k8s.io/apimachinery/pkg/watch"
)

// A watcher is a watch whose events wait without bound, so that a test never waits for a reader.
type watcher struct {
	out  chan watch.Event
	stop chan struct{}
	once sync.Once

	// mu guards queue and ended; cond tells of a change.
	mu    sync.Mutex
	cond  *sync.Cond
	queue []watch.Event
	ended bool
}

func newWatcher() *watcher {
	w := &watcher{out: make(chan watch.Event), stop: make(chan struct{})}
	w.cond = sync.NewCond(&w.mu)
	go w.run()
	return w
}

// push hands over a copy: a reader owns what it gets.
func (w *watcher) push(e watch.Event) {
	e.Object = e.Object.DeepCopyObject()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, e)
	w.cond.Signal()
}

// end closes the watch after what is queued.
func (w *watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.cond.Signal()
}

func (w *watcher) run() {
	defer close(w.out)
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.ended {
			w.cond.Wait()
		}
		if len(w.queue) == 0 {
			w.mu.Unlock()
			return
		}
		e := w.queue[0]
		w.queue[0] = watch.Event{} // or the array would keep it
		w.queue = w.queue[1:]
		w.mu.Unlock()
		select {
		case w.out <- e:
		case <-w.stop:
			return
		}
	}
}

// Stop implements watch.Interface.
func (w *watcher) Stop() {
	w.once.Do(func() { close(w.stop) })
	w.end()
}

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.out }
