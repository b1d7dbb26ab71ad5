package localsocket

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Link is a TCP connection within this machine, as the side that accepted it has it.
type Link struct{ Local, Remote netip.AddrPort }

// Processes returns which process opened each link. One is left out that is closed, or whose process is not to be seen from here. It
// looks at the first maxFiles open files of every process of the machine, which takes some milliseconds.
func Processes(links []Link) (map[Link]int, error) {
	sockets, err := inodes(links)
	if err != nil {
		return nil, err
	}
	found := map[Link]int{}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		err = socketsIn(filesOf(pid), maxFiles, func(inode uint64) bool {
			if l, ok := sockets[inode]; ok {
				found[l] = pid
			}
			return false
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
	}
	return found, nil
}

// Inode names the socket that opened a link; 0 where it is closed.
func Inode(l Link) (uint64, error) {
	sockets, err := inodes([]Link{l})
	for inode := range sockets {
		return inode, err
	}
	return 0, err
}

// Opened reports whether a process has a socket of that inode among its first maxFiles open files. It costs less than Processes.
func Opened(pid int, inode uint64) (is bool, err error) {
	err = socketsIn(filesOf(pid), maxFiles, func(one uint64) bool {
		is = one == inode
		return is
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // it has ended
	}
	return is, err
}

// maxFiles bounds how many open files of one process are looked at, so that one that opens files without end costs some ten milliseconds;
// atOnce are read together.
const (
	maxFiles = 16 << 10
	atOnce   = 256
)

// filesOf is where the kernel shows the open files of a process (proc(5), /proc/pid/fd).
func filesOf(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid), "fd") }

// socketsIn visits the sockets among the first open files of a process, until visit says that it is enough.
func socketsIn(dir string, most int, visit func(inode uint64) (enough bool)) error {
	files, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer files.Close()
	for left := most; left > 0; {
		names, err := files.Readdirnames(min(left, atOnce))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		left -= len(names)
		for _, name := range names {
			if inode, ok := socketAt(filepath.Join(dir, name)); ok && visit(inode) {
				return nil
			}
		}
	}
	return nil
}

// socketAt is the socket that an open file is; not ok where it is none, or was closed meanwhile.
func socketAt(file string) (inode uint64, ok bool) {
	to, err := os.Readlink(file)
	if err != nil {
		return 0, false
	}
	text, ok := strings.CutPrefix(to, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err = strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	return inode, err == nil
}

// inodes finds the sockets at the far ends of links, in the kernel's tables of its connections (proc(5), /proc/net/tcp).
func inodes(links []Link) (map[uint64]Link, error) {
	wanted := make(map[Link]Link, len(links)) // as the far end has it
	for _, l := range links {
		wanted[Link{Local: plain(l.Remote), Remote: plain(l.Local)}] = l
	}
	found := map[uint64]Link{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a machine without IPv6
		}
		if err != nil {
			return nil, err
		}
		rows := bufio.NewScanner(f)
		for rows.Scan() {
			end, inode, ok := parseRow(rows.Text())
			if l, is := wanted[end]; ok && is {
				found[inode] = l
			}
		}
		if err := errors.Join(rows.Err(), f.Close()); err != nil {
			return nil, fmt.Errorf("read %s: %w", table, err)
		}
	}
	return found, nil
}

// parseRow reads a row: "sl local_address rem_address st queues timer retransmits uid timeout inode".
func parseRow(row string) (end Link, inode uint64, ok bool) {
	fields := strings.Fields(row)
	if len(fields) < 10 {
		return end, 0, false
	}
	local, one := parseEnd(fields[1])
	remote, other := parseEnd(fields[2])
	inode, err := strconv.ParseUint(fields[9], 10, 64)
	return Link{local, remote}, inode, one && other && err == nil && inode != 0
}

// parseEnd reads an address and a port in hexadecimal, the address in words of the machine's own byte order.
func parseEnd(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	a, _ := netip.AddrFromSlice(raw)
	return plain(netip.AddrPortFrom(a, uint16(n))), err == nil
}

// plain is an address without what the two ends may see differently.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
