package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// watcher notes when a plain watch showed which number first, by the name of what has it.
type watcher struct {
	what string
	// open opens the watch, and read finds the numbers in what it shows.
	open func(context.Context) (watch.Interface, error)
	read func(runtime.Object) map[string]int

	mu   sync.Mutex // guards what follows
	seen map[string]map[int]time.Time
	news chan struct{} // closed and replaced at each event
	last error         // why the last watch could not be opened
}

// newWatcher watches until ctx ends. A watch that ends is opened anew: it then shows the present state, which counts as
// seen at that moment.
func newWatcher(ctx context.Context, what string, open func(context.Context) (watch.Interface, error), read func(runtime.Object) map[string]int) *watcher {
	w := &watcher{what: what, open: open, read: read, seen: map[string]map[int]time.Time{}, news: make(chan struct{})}
	go func() {
		for ctx.Err() == nil {
			w.follow(ctx)
			if wait(ctx, 20*time.Millisecond) != nil {
				return
			}
		}
	}()
	return w
}

// watchMaps watches the ConfigMaps of a row.
func watchMaps(ctx context.Context, client kubernetes.Interface, what string) *watcher {
	open := func(ctx context.Context) (watch.Interface, error) {
		return client.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: mapsLabel})
	}
	return newWatcher(ctx, what, open, func(o runtime.Object) map[string]int {
		cm, ok := o.(*corev1.ConfigMap)
		if !ok {
			return nil
		}
		return map[string]int{cm.Name: valueOf(cm)}
	})
}

func (w *watcher) follow(ctx context.Context) {
	stream, err := w.open(ctx)
	w.mu.Lock()
	w.last = err
	w.mu.Unlock()
	if err != nil {
		return
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		now := time.Now()
		w.note(w.read(event.Object), now)
	}
}

func (w *watcher) note(values map[string]int, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, value := range values {
		if w.seen[name] == nil {
			w.seen[name] = map[int]time.Time{}
		}
		if _, known := w.seen[name][value]; !known {
			w.seen[name][value] = at
		}
	}
	close(w.news)
	w.news = make(chan struct{})
}

// saw waits until a number was seen and returns when that was.
func (w *watcher) saw(ctx context.Context, name string, value int, timeout time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		w.mu.Lock()
		at, ok := w.seen[name][value]
		news, last := w.news, w.last
		w.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for %d of %s on %s: %w (the last watch: %v)", value, name, w.what, ctx.Err(), last)
		}
	}
}

// sawAll waits until every name was seen with its number and returns when the last one was.
func (w *watcher) sawAll(ctx context.Context, values map[string]int, timeout time.Duration) (last time.Time, err error) {
	for name, value := range values {
		at, err := w.saw(ctx, name, value, timeout)
		if err != nil {
			return last, err
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}

// distinct is how many numbers of a name were seen in some time.
func (w *watcher) distinct(name string, from, to time.Time) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.seen[name] {
		if !at.Before(from) && !at.After(to) {
			n++
		}
	}
	return n
}
