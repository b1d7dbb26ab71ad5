package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
)

// What a week without a link gathers, 200 MB, leaves nothing behind when it is delivered; and while its room is given back others write.
func TestAWeeksBacklogGivesItsRoomBack(t *testing.T) {
	const each, batch, batches = 4000, 100, 500 // 200 MB
	cfg := testConfig(t.TempDir())
	cfg.EventQuota = 1 << 30
	s, err := Open(t.Context(), cfg, Deps{Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	// The writer alone: the upkeep would shrink the file meanwhile.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.w.loop(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	})
	for i := range batches {
		var messages []object.Outgoing
		for j := range batch {
			messages = append(messages, event(fmt.Sprint(i, "-", j), each))
		}
		if err := s.enqueue(t, messages...); err != nil {
			t.Fatal(err)
		}
	}
	full := fileSize(t, s.files.main())
	if full < each*batch*batches {
		t.Fatalf("the file has %d bytes, expected the whole backlog in it", full)
	}
	var ids []uint64
	for _, h := range s.queue(t) {
		ids = append(ids, h.ID)
	}
	for len(ids) > 0 {
		n := min(batch, len(ids))
		if err := s.Drop(t.Context(), ids[:n]...); err != nil {
			t.Fatal(err)
		}
		ids = ids[n:]
	}
	shrunk := make(chan error, 1)
	go func() { shrunk <- s.shrink(t.Context()) }()
	seen := map[int64]bool{} // free pages, as others' writes found them
	for ended := false; !ended; {
		select {
		case err := <-shrunk:
			if err != nil {
				t.Fatal(err)
			}
			ended = true
		default:
			if err := s.Keep(t.Context(), []Note{{Bucket: "b", Key: "k", Value: []byte("v")}}); err != nil {
				t.Fatal(err)
			}
			var free int64
			if err := s.read(t.Context(), "count free pages", func(c *conn) (err error) {
				free, err = c.number("PRAGMA freelist_count")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			seen[free] = true
		}
	}
	t.Logf("%d bytes of %d are left; writes came in between at %d sizes", fileSize(t, s.files.main()), full, len(seen))
	if left := fileSize(t, s.files.main()); left > 1<<20 {
		t.Errorf("the file had %d bytes, has %d, expected at most a MiB", full, left)
	}
	if wal := fileSize(t, s.files.main()+"-wal"); wal > 2*walLimit {
		t.Errorf("the log has %d bytes, expected about %d", wal, walLimit)
	}
	if steps := int(full) / pageSize / vacuumStep; len(seen) < steps/10 {
		t.Errorf("writes came in between at %d sizes, expected that each of %d steps of %d pages lets those through that wait", len(seen), steps, vacuumStep)
	}
}

// A flood of messages stops at the floor of free space, on a file system with a journal and blocks of its own; what must not be
// lost is taken below it, and room that returns is used.
func TestAFloodStopsAtTheFloor(t *testing.T) {
	flash := newFlash(t, 64)
	cfg := testConfig(filepath.Join(flash.dir, "s"))
	cfg.EventQuota, cfg.FreeSpaceFloor = 1<<30, 16<<20
	clock := &fakeClock{now: time.Now()}
	s, _ := running(t, cfg, Deps{Clock: clock})
	// What is in the log when the floor is reached goes into the database yet.
	const slack = 2 * walLimit
	lowest, refused := int64(1<<40), error(nil)
	for i := range 2000 { // 80 MB
		var messages []object.Outgoing
		for j := range 10 {
			m := event(fmt.Sprint(i, "-", j), 4000)
			m.Policy, m.Expires = object.RejectNew, clock.Now().Add(time.Hour)
			messages = append(messages, m)
		}
		if err := s.enqueue(t, messages...); err != nil && !errors.Is(err, object.ErrFull) {
			t.Fatal(err)
		} else if err != nil {
			refused = err
		}
		free, err := freeSpace(flash.dir)
		if err != nil {
			t.Fatal(err)
		}
		lowest = min(lowest, free)
	}
	if refused == nil || lowest < cfg.FreeSpaceFloor-slack {
		t.Fatalf("80 MB of messages left %d bytes free, refused with %v; expected ErrFull, and no less than the floor of %d but for the log", lowest, refused, cfg.FreeSpaceFloor)
	}
	if lowest > cfg.FreeSpaceFloor {
		t.Fatalf("%d bytes were always free, above the floor of %d: messages were refused too early", lowest, cfg.FreeSpaceFloor)
	}
	state := object.Outgoing{Key: cmKey("state"), Op: object.OpPut, Body: make([]byte, 20<<10)}
	if err := s.enqueue(t, state); err != nil {
		t.Errorf("a write of state below the floor: %v", err)
	}
	// Delivered, or too old: either way it leaves more than the disk has room for in one go.
	var ids []uint64
	for _, h := range s.queue(t) {
		if h.Class == object.ClassEvent {
			ids = append(ids, h.ID)
		}
	}
	if err := s.Drop(t.Context(), ids[:len(ids)/2]...); err != nil {
		t.Fatal(err)
	}
	clock.add(2 * time.Hour)
	if err := s.expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lost, want := s.Dropped()[object.ClassEvent].Expired, uint64(len(ids)-len(ids)/2); lost != want {
		t.Errorf("%d messages count as expired, expected %d", lost, want)
	}
	if err := s.shrink(t.Context()); err != nil {
		t.Fatal(err)
	}
	if free, err := freeSpace(flash.dir); err != nil || free < 2*cfg.FreeSpaceFloor {
		t.Errorf("%d bytes are free when all was delivered (%v), expected more than %d", free, err, 2*cfg.FreeSpaceFloor)
	}
	if err := s.enqueue(t, event("after", 4000)); err != nil {
		t.Errorf("a message when room returned: %v", err)
	}
}
