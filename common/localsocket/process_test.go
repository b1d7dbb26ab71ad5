package localsocket

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// link accepts a connection.
func link(t *testing.T, l net.Listener) (Link, net.Conn) {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return Link{c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()}, c
}

func TestWhoOpenedAConnectionWithinTheMachineIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	ours, _ := link(t, l)
	// Another process: a shell that opens a connection and waits for its input to end.
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port+"; read line")
	hold, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	theirs, _ := link(t, l)
	nobodys := Link{ours.Local, netip.MustParseAddrPort("127.0.0.1:1")}
	found, err := Processes([]Link{ours, theirs, nobodys})
	if err != nil || len(found) != 2 || found[ours] != os.Getpid() || found[theirs] != other.Process.Pid {
		t.Errorf("found %v, %v; expected %d and %d", found, err, os.Getpid(), other.Process.Pid)
	}
	for _, x := range []struct {
		pid  int
		link Link
		want bool
	}{{os.Getpid(), ours, true}, {os.Getpid(), theirs, false}, {other.Process.Pid, theirs, true}, {other.Process.Pid, ours, false}, {other.Process.Pid, nobodys, false}, {1 << 22, ours, false}} {
		inode, err := Inode(x.link)
		if err != nil || (inode == 0) != (x.link == nobodys) {
			t.Errorf("the socket of %v: found %d, %v", x.link, inode, err)
		}
		if got, err := Opened(x.pid, inode); err != nil || got != x.want {
			t.Errorf("process %d opened %v: found %v, %v", x.pid, x.link, got, err)
		}
	}
	_ = hold.Close()
	_ = other.Wait() // read ends without a line, which is an error to the shell
}

// A process can have a million files open.
func TestOfOneProcessABoundedNumberOfFilesIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * atOnce {
		if err := os.Symlink(fmt.Sprintf("socket:[%d]", i+1), filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "null")); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct{ most, enough, least, want int }{{10 * atOnce, 10 * atOnce, 2 * atOnce, 2 * atOnce}, {atOnce + 10, 10 * atOnce, atOnce + 9, atOnce + 10}, {10 * atOnce, 5, 5, 5}} {
		seen := 0
		if err := socketsIn(dir, x.most, func(uint64) bool { seen++; return seen >= x.enough }); err != nil || seen < x.least || seen > x.want {
			t.Errorf("of %d sockets, with a bound of %d files and of %d sockets, %d are seen, %v", 2*atOnce, x.most, x.enough, seen, err)
		}
	}
}

func TestThePeerOfAUnixSocketIsFound(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if pid, err := Peer(c); err != nil || pid != os.Getpid() {
		t.Errorf("found %d, %v", pid, err)
	}
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	if pid, err := Peer(one); err == nil || pid != 0 {
		t.Errorf("of what is no socket: %d, %v", pid, err)
	}
}

func TestRowsOfTheKernelAreRead(t *testing.T) {
	for row, want := range map[string]string{
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode":     "",
		"   0: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 4711 1":    "127.0.0.1:8080 127.0.0.2:50000 4711",
		"   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000001000000:0001 01 0:0 0:0 0 0 0 5": "127.0.0.1:8080 [::1]:1 5",
		"   2: 0100007F:1F90 0200007F:C350 06 00000000:00000000 03:00000000 00000000     0        0 0 3":       "",
		"   3: 0100:1 0200007F:C350 01 0:0 0:0 0 0 0 5":                                                        "",
		"": "",
	} {
		end, inode, ok := parseRow(row)
		got := ""
		if ok {
			got = fmt.Sprint(end.Local, " ", end.Remote, " ", inode)
		}
		if got != want {
			t.Errorf("%q: found %q, expected %q", row, got, want)
		}
	}
}
