package store

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tether-edge/tether/common/object"
)

// crashDir makes the test binary a process that writes into the store there until it is killed.
const crashDir = "TETHER_TEST_STORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// writeUntilKilled prints a line for every change that was acknowledged: its local resourceVersion and name.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	cfg := testConfig(dir)
	cfg.CopyInterval = 0
	s, err := Open(ctx, cfg, Deps{Log: slog.New(slog.DiscardHandler), Seal: sealer(1).open})
	if err != nil {
		return err
	}
	go func() { fmt.Fprintln(os.Stderr, s.Start(ctx)) }()
	var out sync.Mutex
	var wg sync.WaitGroup
	failed := make(chan error, 8)
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("w%d-%s-%d", worker, s.ID()[:4], rand.Uint64())
				k := cmKey(name)
				r, err := s.Apply(ctx, object.Change{
					Record:   &object.Record{Key: k, Version: object.Version{UID: name}, Origin: object.FromEdge, Body: []byte(name)},
					Outgoing: []object.Outgoing{{Key: k, UID: name, Op: object.OpPut, Body: []byte(name)}}})
				if err != nil {
					failed <- err
					return
				}
				out.Lock()
				fmt.Println("ack", r.LocalRV, name)
				out.Unlock()
			}
		})
	}
	go func() {
		for i := uint64(1); ; i++ {
			name := fmt.Sprint("b", i%50)
			body, err := object.Encode(mustKind(object.ConfigMaps), configMap(name, "u", i, strings.Repeat("x", int(i%3000))))
			var hidden []byte
			if err == nil {
				hidden, err = object.Encode(mustKind(object.Secrets), secret(name, i, planted+strings.Repeat("y", int(i%2000))))
			}
			if err == nil {
				err = s.ApplyBatch(ctx, []Incoming{{Key: cmKey(name), Version: object.Version{UID: "u", RV: i}, Body: body},
					{Key: secretKey(name), Version: object.Version{UID: "u-" + name, RV: i}, Body: hidden},
					{Key: secretKey(fmt.Sprint("b", (i+25)%50)), Cause: object.CauseDeleted}})
			}
			if err == nil {
				err = s.SaveToken(ctx, name, "", []byte(planted+name), time.Now().Add(time.Hour))
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	return <-failed
}

// Killed at any moment, the store comes back with every change that it had acknowledged, numbers go on above, and no Secret
// can be read in what it left.
func TestKilledAtAnyMomentNothingAcknowledgedIsLost(t *testing.T) {
	dir := t.TempDir()
	var acked []string
	var highest uint64
	for round := range 6 {
		names, last := runAndKill(t, dir, 20+rand.IntN(300))
		acked, highest = append(acked, names...), max(highest, last)
		mustHide(t, dir)
		s, stop := running(t, testConfig(dir), Deps{Seal: sealer(1).open})
		if st := s.Status(); st.Damaged != "" {
			t.Fatalf("round %d: a kill damaged the database: %+v", round, st)
		}
		_, rv, err := s.List(t.Context(), object.ConfigMaps, "")
		if err != nil || rv < highest {
			t.Fatalf("round %d: starts at %d, %d was given out (%v)", round, rv, highest, err)
		}
		queued := map[string]bool{}
		for _, h := range s.queue(t) {
			queued[h.Key.Name] = true
		}
		for _, name := range acked {
			if !queued[name] {
				t.Fatalf("round %d: the write %s was acknowledged and is lost", round, name)
			}
			s.mustGet(t, cmKey(name))
		}
		mustAgree(t, s)
		stop()
		mustHide(t, dir)
	}
	t.Logf("%d acknowledged writes in 6 rounds", len(acked))
}

// runAndKill runs the writer until it has printed some lines, kills it, and returns what it had acknowledged.
func runAndKill(t *testing.T, dir string, lines int) (names []string, highest uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	for n := 0; ; n++ {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var rv uint64
		var name string
		if _, err := fmt.Sscanf(line, "ack %d %s", &rv, &name); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		names, highest = append(names, name), max(highest, rv)
		if n == lines {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	if len(names) <= lines {
		t.Fatalf("the writer ended by itself after %d lines: %v: %s", len(names), err, errs.String())
	}
	return names, highest
}

// mustAgree compares the digests with what is recomputed from the bodies themselves.
func mustAgree(t *testing.T, s *Store) {
	t.Helper()
	got, err := s.Digests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want object.Digest
	list, _, err := s.List(t.Context(), object.ConfigMaps, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Origin != object.FromCloud {
			continue
		}
		v, err := object.VersionOf(decode[object.Object](t, object.ConfigMaps, r.Cloud()))
		if err != nil {
			t.Fatal(err)
		}
		want.Add(r.Key, v)
	}
	if got[object.ConfigMaps] != want {
		t.Fatalf("digest %+v, recomputed %+v", got[object.ConfigMaps], want)
	}
}
