package run

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident is how much of the program's own pages is mapped, in bytes, and how much there is of them.
func resident(t *testing.T) (rss, size uintptr) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for line := range strings.Lines(string(all)) {
		fields := strings.Fields(line)
		if strings.Contains(fields[0], "-") {
			ours = strings.HasSuffix(line, program+"\n") && !strings.Contains(fields[1], "w")
		}
		if !ours || fields[0] != "Rss:" && fields[0] != "Size:" {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if fields[0] == "Rss:" {
			rss += uintptr(n) << 10
		} else {
			size += uintptr(n) << 10
		}
	}
	return rss, size
}

func TestWhatIsNotInUseOfTheProgramIsGivenBack(t *testing.T) {
	for _, p := range programPages("smaps") {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, p.start, p.end-p.start, unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatal("map the whole program: ", errno)
		}
	}
	before, size := resident(t)
	if size == 0 || before < size*9/10 {
		t.Fatalf("%d of %d bytes of the program are mapped: the test proves nothing", before, size)
	}
	unmapProgram()
	if after, _ := resident(t); after > size*3/4 {
		t.Errorf("of %d bytes of the program %d are mapped", size, after)
	}
}

// A page that differs from the file has nowhere to come back from.
func TestAPageThatDiffersFromTheProgramsFileStays(t *testing.T) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(page); err != nil {
			t.Error(err)
		}
	}()
	was := page[0]
	page[0] = ^was
	if err := unix.Mprotect(page, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range programPages("smaps") {
		found = found || p.start == uintptr(unsafe.Pointer(&page[0])) && p.changed
	}
	if !found {
		t.Error("the page is not among those that differ from the file")
	}
	unmapProgram()
	if page[0] != ^was {
		t.Error("what was written to the page is lost")
	}
}
