package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

// A tpm seals under the storage root key of a TPM 2.0, which is derived anew each time from a seed that never leaves it.
// Nothing is bound to measurements of the boot: an update of firmware or kernel must not cost a site its Secrets, so this
// keeps a disk, or a copy of one, from being read elsewhere, and not from who starts another system on the same machine.
// It is for one goroutine.
type tpm struct {
	path string
	// timeout is how long it is waited for.
	timeout time.Duration
	// hung is closed once the last use that was not waited for has ended; nil if there was none.
	hung <-chan struct{}
}

// A wrapped key is three parts, each preceded by its length (2 bytes, big endian): the name of the storage root key, the
// public and the private part of the sealed object, which holds id and key.
const tpmParts = 3

func (t *tpm) wrap(id int64, key []byte) ([]byte, error) {
	return t.use(tpm2.AESEncryption(128, tpm2.EncryptIn), func(c channel, root *tpm2.CreatePrimaryResponse, session tpm2.Session) ([]byte, error) {
		r, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: root.ObjectHandle, Name: root.Name, Auth: session},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: append(idBytes(id), key...)})}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true}}),
		}.Execute(c)
		if err != nil {
			return nil, fmt.Errorf("seal a key: %w", err)
		}
		var out []byte
		for _, part := range [tpmParts][]byte{root.Name.Buffer, r.OutPublic.Bytes(), r.OutPrivate.Buffer} {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(part))), part...)
		}
		return out, nil
	})
}

func (t *tpm) unwrap(id int64, wrapped []byte) ([]byte, error) {
	var parts [tpmParts][]byte
	for i := range parts {
		if len(wrapped) < 2 || len(wrapped)-2 < int(binary.BigEndian.Uint16(wrapped)) {
			return nil, fmt.Errorf("expected %d parts, found %d", tpmParts, i)
		}
		n := 2 + int(binary.BigEndian.Uint16(wrapped))
		parts[i], wrapped = wrapped[2:n], wrapped[n:]
	}
	return t.use(tpm2.AESEncryption(128, tpm2.EncryptOut), func(c channel, root *tpm2.CreatePrimaryResponse, session tpm2.Session) ([]byte, error) {
		// The name is that of the public key which the session is salted with: so nothing between here and the TPM that
		// sealed the key learns it.
		if !bytes.Equal(root.Name.Buffer, parts[0]) {
			return nil, errors.New("another TPM sealed it, or this one was cleared since")
		}
		object, err := tpm2.Load{
			ParentHandle: tpm2.AuthHandle{Handle: root.ObjectHandle, Name: root.Name, Auth: tpm2.PasswordAuth(nil)},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](parts[1]), InPrivate: tpm2.TPM2BPrivate{Buffer: parts[2]},
		}.Execute(c)
		if err != nil {
			return nil, fmt.Errorf("load a sealed key: %w", err)
		}
		defer c.flush(object.ObjectHandle)
		r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session}}.Execute(c)
		if err != nil {
			return nil, fmt.Errorf("open a sealed key: %w", err)
		}
		key, ok := bytes.CutPrefix(r.OutData.Buffer, idBytes(id))
		if !ok {
			return nil, errors.New("it is the key of another id")
		}
		return key, nil
	})
}

// A command is what is done with the storage root key, in a session that hides keys from the wires to the chip.
type command func(c channel, root *tpm2.CreatePrimaryResponse, session tpm2.Session) ([]byte, error)

// use runs f, and waits as long as the timeout. A device that hangs in the kernel cannot be called off: while it does,
// nothing further is asked of it.
func (t *tpm) use(hide tpm2.AuthOption, f command) ([]byte, error) {
	select {
	case <-t.hung: // it has ended
	default:
		if t.hung != nil {
			return nil, fmt.Errorf("%s has not answered the last command yet: %w", t.path, errAway)
		}
	}
	type outcome struct {
		key []byte
		err error
	}
	done, ended := make(chan outcome, 1), make(chan struct{})
	go func() {
		defer close(ended)
		key, err := runCommand(t.path, hide, f)
		done <- outcome{key, err}
	}()
	timer := time.NewTimer(t.timeout)
	defer timer.Stop()
	select {
	case o := <-done:
		return o.key, o.err
	case <-timer.C:
		t.hung = ended
		return nil, fmt.Errorf("%s has not answered for %v: %w", t.path, t.timeout, errAway)
	}
}

func runCommand(path string, hide tpm2.AuthOption, f command) ([]byte, error) {
	rw, err := openTPM(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this machine has no %s: %w", path, errAway)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	c := channel{rw}
	defer rw.Close()
	root, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if err != nil {
		return nil, answered(fmt.Errorf("make the storage root key: %w", err))
	}
	defer c.flush(root.ObjectHandle)
	public, err := root.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read the storage root key: %w", err)
	}
	session, end, err := tpm2.HMACSession(c, tpm2.TPMAlgSHA256, 16, tpm2.Salted(root.ObjectHandle, *public), hide)
	if err != nil {
		return nil, answered(fmt.Errorf("open a session: %w", err))
	}
	// The resource manager ends what is left of a session with the connection.
	defer func() { _ = end() }()
	key, err := f(c, root, session)
	return key, answered(err)
}

// answered marks errors that are no answer for good: a TPM that is busy or does not speak may do so later.
func answered(err error) error {
	var code tpm2.TPMRC
	if errors.Is(err, errChannel) || errors.As(err, &code) && code.IsWarning() {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return err
}

// tpmTimeout bounds one use of a TPM. Slow ones take seconds to make a key.
const tpmTimeout = 20 * time.Second

// openTPM opens a device or a Unix socket.
func openTPM(path string) (io.ReadWriteCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		// Blocking, which os.OpenFile would not leave it: the driver would take a command at once and answer the read that
		// follows with nothing.
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	c, err := net.DialTimeout("unix", path, tpmTimeout)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(tpmTimeout))
}

// errChannel: the TPM could not be talked to.
var errChannel = errors.New("talk to the TPM")

// A channel sends commands to a TPM: what go-tpm wants of one.
type channel struct{ io.ReadWriter }

// maxResponse is above what any TPM answers, in bytes.
const maxResponse = 4096

// Send writes a command and reads the response, whose bytes 2 to 5 are its length. A device gives it in one read.
func (c channel) Send(command []byte) ([]byte, error) {
	if _, err := c.Write(command); err != nil {
		return nil, fmt.Errorf("%w: %w", errChannel, err)
	}
	buf, n, want := make([]byte, maxResponse), 0, 10
	for n < want {
		m, err := c.Read(buf[n:])
		if n += m; err != nil {
			return nil, fmt.Errorf("%w: %w", errChannel, err)
		}
		if n >= 6 {
			want = int(binary.BigEndian.Uint32(buf[2:]))
		}
		if want > maxResponse {
			return nil, fmt.Errorf("%w: a response of %d bytes, expected at most %d", errChannel, want, maxResponse)
		}
	}
	return buf[:n], nil
}

// flush frees a place in the TPM. Without a resource manager there are three; with one the connection's end does it too.
func (c channel) flush(h tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(c)
}
