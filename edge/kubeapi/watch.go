package kubeapi

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"github.com/tether-edge/tether/common/object"
)

// Watch implements rest.Watcher. As in the API server, an error after the request has been understood is an event of
// the stream and not an answer of its own; only a kind that is not synced yet is a 503 at once, which reflectors
// retry with back-off (a 429 would make them try for ever).
func (r *resource) Watch(ctx context.Context, opts *metainternalversion.ListOptions) (watch.Interface, error) {
	if !r.synced() {
		return nil, r.errNotSynced()
	}
	rv, err := parseVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	w := &watcher{
		resource: r, sel: newSelector(request.NamespaceValue(ctx), opts),
		bookmarks: opts.AllowWatchBookmarks, out: make(chan watch.Event, 8),
	}
	w.sel.kubelet = r.s.isKubelet(ctx)
	// Versions "" and "0" start with what is there, as does WatchList with any version.
	start := rv == 0
	if opts.SendInitialEvents != nil {
		start = *opts.SendInitialEvents
		w.endMark = start && opts.AllowWatchBookmarks
	}
	if r.waitsForDevices(ctx) {
		w.sel.hides = r.s.late.hides
		ok := true
		if start {
			w.opens = r.s.late.begin()
		} else if w.opens, ok = r.s.late.resume(); !ok {
			return failedWatch(expired(devicesCame)), nil
		}
	}
	since := rv
	var initial []*object.Record
	if start || rv == 0 {
		recs, at, err := r.src.List(ctx, r.kind.ID(), w.sel.namespace)
		if err != nil {
			return nil, internal(ctx, "list the store", err)
		}
		if rv > at {
			return failedWatch(storage.NewTooLargeResourceVersionError(rv, at, 1)), nil
		}
		since = at
		if start {
			initial = slices.Clone(recs)
		}
	}
	ctx, w.cancel = context.WithCancel(ctx)
	events, err := r.src.Watch(ctx, r.kind.ID(), since)
	if err != nil {
		w.cancel()
		if isExpired(err) {
			return failedWatch(expired("too old resource version: " + object.FormatRV(since))), nil
		}
		return nil, internal(ctx, "watch the store", err)
	}
	w.seen = since
	go w.run(ctx, initial, events)
	return w, nil
}

// devicesCame ends a watch that has passed over pods: the client lists again.
const devicesCame = "pods that waited for their devices may be shown now: list again"

// watcher turns the store's events into those of one client.
type watcher struct {
	*resource
	sel       selector
	bookmarks bool // the client wants to hear of versions that it sees no event of
	endMark   bool // and which event ends the initial ones (WatchList)
	out       chan watch.Event
	cancel    context.CancelFunc
	// opens is closed when pods that this client was not shown may be shown; nil for clients that are shown all.
	opens <-chan struct{}

	// seen is the version up to which all was delivered, told the last one that the client heard. Both belong to run.
	seen, told uint64
}

func (w *watcher) ResultChan() <-chan watch.Event { return w.out }

func (w *watcher) Stop() { w.cancel() }

func (w *watcher) run(ctx context.Context, initial []*object.Record, events <-chan object.Event) {
	defer close(w.out)
	defer w.cancel()
	if !w.sendInitial(ctx, initial) {
		return
	}
	ticker := time.NewTicker(w.s.cfg.BookmarkPeriod)
	defer ticker.Stop()
	if !w.bookmarks {
		ticker.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if w.seen != w.told && !w.send(ctx, watch.Bookmark, w.bookmark()) {
				return
			}
		case <-w.opens:
			w.send(ctx, watch.Error, statusOf(expired(devicesCame)))
			return
		case e, ok := <-events:
			if !ok || !w.deliver(ctx, e) {
				return
			}
		}
	}
}

// sendInitial sends what was there when the watch began. It reports false if the watch is over.
func (w *watcher) sendInitial(ctx context.Context, recs []*object.Record) bool {
	for i, rec := range recs {
		recs[i] = nil // a slow client should not hold all of the bodies
		o, err := w.selected(rec, w.sel)
		if err != nil {
			return w.fail(ctx, err)
		}
		if o != nil && !w.send(ctx, watch.Added, o) {
			return false
		}
	}
	if !w.endMark {
		return true
	}
	mark := w.bookmark()
	if err := storage.AnnotateInitialEventsEndBookmark(mark); err != nil {
		return w.fail(ctx, err)
	}
	return w.send(ctx, watch.Bookmark, mark)
}

func (w *watcher) bookmark() runtime.Object {
	o := w.New()
	if acc, err := meta.Accessor(o); err == nil {
		acc.SetResourceVersion(object.FormatRV(w.seen))
	}
	return o
}

// deliver sends what one change means under the selector: an object that begins to match is ADDED, one that ceases
// to is DELETED, and a new object under an old name is both.
func (w *watcher) deliver(ctx context.Context, e object.Event) bool {
	w.seen = e.Record.LocalRV
	if !w.sel.mayMatch(e.Record.Key) {
		return true
	}
	var before, after object.Object
	var err error
	if e.Type != object.Added {
		if before, err = w.before(e); err != nil {
			return w.fail(ctx, err)
		}
	}
	if e.Type != object.Deleted && !e.Record.Tombstone {
		if after, err = w.selected(e.Record, w.sel); err != nil {
			return w.fail(ctx, err)
		}
	}
	switch {
	case before != nil && after != nil && before.GetUID() == after.GetUID():
		return w.send(ctx, watch.Modified, after)
	case before != nil && after != nil:
		return w.send(ctx, watch.Deleted, before) && w.send(ctx, watch.Added, after)
	case before != nil:
		return w.send(ctx, watch.Deleted, before)
	case after != nil:
		return w.send(ctx, watch.Added, after)
	}
	return true
}

// before returns the object that the client knew before a change, with the version of the change, or nil.
func (w *watcher) before(e object.Event) (object.Object, error) {
	rec := e.Previous
	if rec == nil {
		rec = e.Record // a deletion carries the last state
	}
	if rec.Tombstone && e.Type != object.Deleted {
		return nil, nil
	}
	o, err := w.selected(rec, w.sel)
	if o != nil {
		o.SetResourceVersion(object.FormatRV(e.Record.LocalRV))
	}
	return o, err
}

// send reports false if the watch is over.
func (w *watcher) send(ctx context.Context, t watch.EventType, o runtime.Object) bool {
	select {
	case w.out <- watch.Event{Type: t, Object: o}:
		w.told = w.seen
		return true
	case <-ctx.Done():
		return false
	}
}

// fail ends the watch with an error; the client lists again. The error is logged, for only damaged rows cause it.
func (w *watcher) fail(ctx context.Context, err error) bool {
	w.s.deps.Log.Error("watch ended: a stored object cannot be served", "kind", w.kind.ID(), "err", err)
	w.send(ctx, watch.Error, statusOf(internal(ctx, "read the store", err)))
	return false
}

// failedWatch is a watch whose only event is an error.
func failedWatch(err error) watch.Interface {
	ch := make(chan watch.Event, 1)
	ch <- watch.Event{Type: watch.Error, Object: statusOf(err)}
	close(ch)
	return closedWatch{ch}
}

type closedWatch struct{ ch chan watch.Event }

func (c closedWatch) ResultChan() <-chan watch.Event { return c.ch }
func (c closedWatch) Stop()                          {}
