package keadm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/printers"
)

// follow shows what there is, and then each change until the person has seen enough.
func (g *gateway) follow(ctx context.Context, w IO, f *getFlags, one wanted) error {
	if f.sortBy != "" {
		fmt.Fprintln(w.Err, "warning: --watch requested, --sort-by will be ignored for watch events received")
	}
	list, err := g.ask(ctx, f, one)
	if err != nil {
		return err
	}
	about, err := meta.CommonAccessor(list)
	if err != nil {
		return fmt.Errorf("expected a list: %w", err)
	}
	s := &shower{f: f, w: w, tables: f.tablePrinter(one.kind, false)}
	shown, err := s.first(list)
	if err != nil {
		return err
	}
	if one.name != "" && shown == 0 {
		// A list is empty where an object would be missed.
		single := *f
		single.watch = false
		switch _, err := g.ask(ctx, &single, one); {
		case apierrors.IsNotFound(err) && f.ignoreNotFound:
			return nil
		case err != nil:
			return err
		}
	}
	stream, err := g.request(f, one).Param("watch", "true").Param("resourceVersion", about.GetResourceVersion()).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	for d := json.NewDecoder(stream); ; {
		var event metav1.WatchEvent
		if err := d.Decode(&event); err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.event(event.Type, event.Object.Raw); err != nil {
			return err
		}
	}
}

// A shower prints the objects of a watch one by one. Its columns are as wide as the widest so far.
type shower struct {
	f      *getFlags
	w      IO
	tables printers.ResourcePrinter
	lines  interface {
		io.Writer
		Flush() error
	}
}

// first prints a list, or of a table its heading alone where changes are all that is wanted. It returns how many there
// are.
func (s *shower) first(list runtime.Object) (int, error) {
	s.lines = printers.GetNewTabWriter(s.w.Out)
	if s.f.objects == nil {
		t, err := readTable(list)
		if err != nil {
			return 0, err
		}
		n := len(t.Rows)
		if s.f.watchOnly {
			t.Rows = nil
		} else if err := s.f.sortRows(t); err != nil {
			return 0, err
		}
		return n, s.print(string(watch.Added), t)
	}
	items := itemsOf(list)
	for i := range items {
		if s.f.watchOnly {
			break
		}
		if err := s.print(string(watch.Added), &items[i]); err != nil {
			return 0, err
		}
	}
	return len(items), nil
}

// event prints a change. One that says that the watch ended is the error.
func (s *shower) event(kind string, b []byte) error {
	if kind == string(watch.Error) {
		var status metav1.Status
		if err := json.Unmarshal(b, &status); err != nil {
			return fmt.Errorf("the watch ended: %s", b)
		}
		return &apierrors.StatusError{ErrStatus: status}
	}
	o, err := decode(b)
	if err != nil {
		return err
	}
	if s.f.objects != nil {
		return s.print(kind, o)
	}
	t, err := readTable(o)
	if err != nil {
		return err
	}
	return s.print(kind, t)
}

func (s *shower) print(kind string, o runtime.Object) error {
	if s.f.events {
		o = &metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Object: o}}
	}
	if s.f.objects != nil {
		return s.f.objects.PrintObj(o, s.w.Out)
	}
	if err := s.tables.PrintObj(o, s.lines); err != nil {
		return err
	}
	return s.lines.Flush()
}
