package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// watcher notes when a plain watch showed which value of which ConfigMap first.
type watcher struct {
	what string

	mu   sync.Mutex // guards what follows
	seen map[string]map[int]time.Time
	news chan struct{} // closed and replaced at each event
	last error         // why the last watch could not be opened
}

// watchMaps watches the ConfigMaps of a row until ctx ends. A watch that ends is opened anew: it then shows the present
// state, which counts as seen at that moment.
func watchMaps(ctx context.Context, client kubernetes.Interface, what string) *watcher {
	w := &watcher{what: what, seen: map[string]map[int]time.Time{}, news: make(chan struct{})}
	go func() {
		for ctx.Err() == nil {
			w.follow(ctx, client)
			if wait(ctx, 20*time.Millisecond) != nil {
				return
			}
		}
	}()
	return w
}

func (w *watcher) follow(ctx context.Context, client kubernetes.Interface) {
	stream, err := client.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: mapsLabel})
	w.mu.Lock()
	w.last = err
	w.mu.Unlock()
	if err != nil {
		return
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		now := time.Now()
		if cm, ok := event.Object.(*corev1.ConfigMap); ok {
			w.note(cm.Name, valueOf(cm), now)
		}
	}
}

func (w *watcher) note(name string, value int, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[name] == nil {
		w.seen[name] = map[int]time.Time{}
	}
	if _, known := w.seen[name][value]; !known {
		w.seen[name][value] = at
	}
	close(w.news)
	w.news = make(chan struct{})
}

// saw waits until a value was seen and returns when that was.
func (w *watcher) saw(ctx context.Context, i, value int, timeout time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		w.mu.Lock()
		at, ok := w.seen[mapName(i)][value]
		news, last := w.news, w.last
		w.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for value %d of %s on %s: %w (the last watch: %v)", value, mapName(i), w.what, ctx.Err(), last)
		}
	}
}

// sawAll waits until n ConfigMaps were seen with a value and returns when the last one was.
func (w *watcher) sawAll(ctx context.Context, n, value int, timeout time.Duration) (last time.Time, err error) {
	for i := range n {
		at, err := w.saw(ctx, i, value, timeout)
		if err != nil {
			return last, err
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}
