package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A software TPM, Debian's swtpm, with its state in a directory: the same one when it is started there again.
type softTPM struct {
	socket, state string
	process       *exec.Cmd
}

// startTPM makes a TPM that runs until the test ends.
func startTPM(t testing.TB) *softTPM {
	t.Helper()
	// Not below t.TempDir: the path of a socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		t.Fatal(err)
	}
	s := &softTPM{socket: filepath.Join(dir, "tpm"), state: dir}
	t.Cleanup(func() {
		s.stop(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.start(t)
	return s
}

func (s *softTPM) start(t testing.TB) {
	t.Helper()
	s.process = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.state, "--server", "type=unixio,path="+s.socket,
		"--flags", "not-need-init,startup-clear")
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	s.process.Stdout, s.process.Stderr = &out, &out
	if err := s.process.Start(); err != nil {
		t.Fatalf("start a software TPM: %v; install it: apt-get install swtpm", err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; <-tick.C {
		if c, err := net.Dial("unix", s.socket); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("swtpm listens nowhere: %s", out.String())
		}
	}
}

func (s *softTPM) stop(t testing.TB) {
	t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = s.process.Wait() // killed
	s.process = nil
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestATPMSealsAndNothingElseOpens(t *testing.T) {
	tpm := startTPM(t)
	cfg := Config{Dir: t.TempDir(), TPM: tpm.socket}
	r := openRing(t, cfg)
	if st := r.Status(); st.Source != SourceTPM || len(st.PassedOver) != 0 {
		t.Fatalf("status %+v, expected the TPM", st)
	}
	id, sealed := r.Seal(body, place)
	if _, err := os.Stat(filepath.Join(cfg.Dir, keyFileName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key file was made beside the TPM: %v", err)
	}
	mustOpen(t, openRing(t, cfg), id, sealed)

	// After a reboot.
	tpm.stop(t)
	tpm.start(t)
	mustOpen(t, openRing(t, cfg), id, sealed)

	// The disk in another machine, that has a TPM or none: what the other machine seals is its own.
	other := Config{Dir: t.TempDir(), TPM: startTPM(t).socket}
	none := Config{Dir: t.TempDir()}
	for _, stolen := range []Config{other, none} {
		if err := os.CopyFS(stolen.Dir, os.DirFS(cfg.Dir)); err != nil {
			t.Fatal(err)
		}
		mustLack(t, openRing(t, stolen), id, sealed)
	}
	if lost := openRing(t, other).Status().Lost; !strings.Contains(strings.Join(lost, ""), "another TPM") {
		t.Errorf("lost: %v, expected that another TPM is said", lost)
	}

	// The machine without its TPM for one start: a key file seals meanwhile, and nothing is lost when it is back.
	tpm.stop(t)
	r = openRing(t, cfg)
	if st := r.Status(); st.Source != SourceFile || len(st.PassedOver) != 2 {
		t.Errorf("status %+v, expected a key file", st)
	}
	mustLack(t, r, id, sealed)
	meanwhile, sealedMeanwhile := r.Seal(body, place)
	tpm.start(t)
	r = openRing(t, cfg)
	if st := r.Status(); st.Source != SourceTPM || len(st.Lost) != 0 {
		t.Errorf("status %+v, expected the TPM again", st)
	}
	mustOpen(t, r, id, sealed)
	mustOpen(t, r, meanwhile, sealedMeanwhile)
	if r.Keys()[0] == id || r.Keys()[0] == meanwhile {
		t.Errorf("keys %v, expected a new one of the TPM", r.Keys())
	}
}

// A wrapped key opens under its own id only: entries that change places open nothing.
func TestWrappedKeysKnowTheirIDs(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "credential")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("s"), 40), 0o600); err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{9}, 32)
	for name, s := range map[string]source{SourceTPM: &tpm{path: startTPM(t).socket, timeout: tpmTimeout}, SourceCredential: credential{secret}, SourceFile: file{filepath.Join(dir, "key")}} {
		wrapped, err := s.wrap(5, key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if bytes.Contains(wrapped, key) {
			t.Errorf("%s: the key can be read in its wrapping", name)
		}
		if got, err := s.unwrap(5, wrapped); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
		if got, err := s.unwrap(6, wrapped); err == nil {
			t.Errorf("%s: under another id it opens to %x", name, got)
		}
	}
}

// listen is a log handler that tells of a message.
type listen struct {
	slog.Handler
	part string
	once *sync.Once
	said chan struct{}
}

func (l listen) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, l.part) {
		l.once.Do(func() { close(l.said) })
	}
	return nil
}

func (l listen) Enabled(context.Context, slog.Level) bool { return true }

// At boot the driver of the TPM may come up after edgecore.
func TestATPMThatComesUpLaterIsWaitedFor(t *testing.T) {
	tpm := startTPM(t)
	cfg := Config{Dir: t.TempDir(), TPM: tpm.socket, Patience: time.Minute}
	id, sealed := openRing(t, cfg).Seal(body, place)
	tpm.stop(t)
	said := listen{slog.DiscardHandler, "waiting", &sync.Once{}, make(chan struct{})}
	opened := make(chan *Ring, 1)
	go func() {
		r, err := Open(t.Context(), cfg, Deps{Log: slog.New(said)})
		if err != nil {
			t.Error(err)
		}
		opened <- r
	}()
	select {
	case <-said.said:
	case r := <-opened:
		t.Fatalf("it did not wait: %+v", r.Status())
	}
	tpm.start(t)
	r := <-opened
	if r == nil {
		return
	}
	mustOpen(t, r, id, sealed)
	if st := r.Status(); st.Source != SourceTPM || r.Keys()[0] != id {
		t.Errorf("status %+v, keys %v; expected that the key goes on", st, r.Keys())
	}
	// An end of the process is not waited for.
	tpm.stop(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, cfg, Deps{Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, expected that the wait ends with the process", err)
	}
}

// A device whose driver hangs, here a terminal at which nobody types, must not keep a node from starting. No deadline
// ends a read of it.
func TestATPMThatHangsIsNotWaitedForLong(t *testing.T) {
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = keyboard.Close() }()
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	device := &tpm{path: fmt.Sprint("/dev/pts/", n), timeout: time.Millisecond}
	if _, err := device.wrap(1, probe); !errors.Is(err, errAway) || !strings.Contains(err.Error(), "has not answered for 1ms") {
		t.Fatalf("got %v, expected that it does not answer", err)
	}
	// As long as the first command hangs it is not asked again, or each of a start's few tries would wait.
	device.timeout = time.Hour
	if _, err := device.unwrap(1, nil); err == nil {
		t.Error("no parts are unwrapped")
	}
	if _, err := device.wrap(1, probe); !errors.Is(err, errAway) || !strings.Contains(err.Error(), "the last command") {
		t.Errorf("got %v, expected that the first command hangs", err)
	}
	// A driver that is taken away ends it, and the next one is asked.
	if err := keyboard.Close(); err != nil {
		t.Fatal(err)
	}
	<-device.hung
	if _, err := device.wrap(1, probe); !errors.Is(err, errAway) || !strings.Contains(err.Error(), "has no /dev/pts") {
		t.Errorf("got %v, expected that it is gone", err)
	}
}

// What answers in a TPM's place may say anything.
func TestATPMThatAnswersNonsenseIsPassedOver(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing": nil, "a length of 4 GiB": append([]byte{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, make([]byte, 2*maxResponse)...), "a length of 0": make([]byte, 10),
		"a success without anything": {0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}, "letters": []byte("this is no TPM"),
		"an error": {0x80, 1, 0, 0, 0, 10, 0, 0, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "tpm")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			l, err := net.Listen("unix", filepath.Join(dir, "tpm"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Read(make([]byte, maxResponse))
					_, _ = c.Write(answer)
					_ = c.Close()
				}
			}()
			r := openRing(t, Config{Dir: t.TempDir(), TPM: l.Addr().String()})
			if st := r.Status(); st.Source != SourceFile || !strings.HasPrefix(st.PassedOver[0], SourceTPM) {
				t.Errorf("status %+v, expected a key file", st)
			}
			id, sealed := r.Seal(body, place)
			mustOpen(t, r, id, sealed)
		})
	}
}
