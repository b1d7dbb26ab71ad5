package modbus

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tether-edge/tether/common/mapper"
)

// crc is that of a frame on a serial line, low byte first.
func crc(frame []byte) []byte {
	sum := uint16(0xffff)
	for _, b := range frame {
		sum ^= uint16(b)
		for range 8 {
			odd := sum&1 != 0
			sum >>= 1
			if odd {
				sum ^= 0xa001
			}
		}
	}
	return []byte{byte(sum), byte(sum >> 8)}
}

// line makes a pseudo-terminal and returns its ends: the test's, and the path of the mapper's.
func line(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return master, fmt.Sprintf("/dev/pts/%d", n)
}

// A device on a serial line: slave 17 with one holding register, which functions 3 and 6 read and write. Their requests have
// eight bytes.
func TestADeviceOnASerialLine(t *testing.T) {
	master, path := line(t)
	// Held open, so that the line does not hang up between two openings by the mapper.
	hold, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		value := []byte{0, 7}
		for {
			request := make([]byte, 8)
			if _, err := io.ReadFull(master, request); err != nil {
				return // the test is over
			}
			if sum := crc(request[:6]); request[0] != 17 || sum[0] != request[6] || sum[1] != request[7] {
				continue // not for this slave
			}
			answer := request[:6]
			if request[1] == 3 {
				answer = append([]byte{17, 3, 2}, value...)
			} else {
				value = []byte{request[4], request[5]}
			}
			if _, err := master.Write(append(answer, crc(answer)...)); err != nil {
				t.Error(err)
			}
		}
	})
	m := New()
	open2 := func(slave int) mapper.Driver {
		return open(t, m, fmt.Sprintf(`{"communicateType": "rtu", "serialPort": %q, "baudRate": 9600, "parity": "even", "slaveID": %d, "timeout": 200}`, path, slave))
	}
	there, absent := open2(17), open2(18)
	other := mapper.Device{Config: mapper.Config(fmt.Sprintf(`{"serialPort": %q, "baudRate": 19200, "parity": "even", "slaveID": 19}`, path))}
	if _, err := m.Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "9600 baud 8E1") || !strings.Contains(err.Error(), "19200 baud 8E1") {
		t.Errorf("a device with other settings of the same line: %v, want an error with both", err)
	}
	property := mapper.Property{Type: "INT", Config: mapper.Config(`{"register": "HoldingRegister", "limit": 1}`)}
	read := func(want string) {
		t.Helper()
		if found, err := there.Read(t.Context(), property); err != nil || found != want {
			t.Errorf("expected %s, found %s, %v", want, found, err)
		}
	}
	read("7")
	if err := there.Write(t.Context(), property, "4660"); err != nil {
		t.Error(err)
	}
	read("4660")
	if _, err := absent.Read(t.Context(), property); err == nil {
		t.Error("expected a slave that is absent to be lost")
	}
	read("4660")
	for _, d := range []mapper.Driver{there, absent} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := hold.Close(); err != nil {
		t.Error(err)
	}
	if err := master.Close(); err != nil {
		t.Error(err)
	}
	ended.Wait()
}
