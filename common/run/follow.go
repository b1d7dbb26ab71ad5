package run

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// lookEvery is how often the limit of the control group is read: whoever limits a process that runs wants it to be within the
// limit soon, and the kernel tells nobody.
const lookEvery = 2 * time.Second

// Go is given what a control group allows but for what is not Go's: beside half of it at most, programMost for the pages of the program that
// must stay, or each step of it waits for the disk, and otherShare of the group for SQLite, threads, page tables, sockets and files.
const (
	programMost = 48 << 20
	otherShare  = 1.0 / 16
)

// little is the memory group, in bytes, in which a program does not have itself read in large pieces. Above it a start from a slow disk is worth more.
const little = 256 << 20

// softLimit is the most memory that Go shall take in a group that allows so much, in bytes. It is never so near to what Go cannot do without
// that the collector would be at work all the time: a process that needs more than that has to take it from the program's pages, which costs
// less.
func softLimit(group, needed uint64) int64 {
	if group == 0 {
		return math.MaxInt64
	}
	beside := min(group/2, programMost+uint64(otherShare*float64(group)))
	return int64(max(group-beside, needed))
}

// needed is what Go cannot do without, in bytes: what is live, with as much garbage as is let stand at least, and what the runtime has
// beside objects. It is rounded up, so that it is often the same.
func needed() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/total:bytes"}}
	metrics.Read(s)
	live, total := s[0].Value.Uint64(), s[4].Value.Uint64()
	for _, spare := range s[1:4] {
		total -= spare.Value.Uint64()
	}
	n := total + live + garbageLeast(live)
	return n + tidyLeast - n%tidyLeast
}

// follow has Go keep to what the control group allows now.
func (m *Memory) follow() {
	group := groupMemory(m.files())
	if singly := group != 0 && group <= little; singly != m.singly {
		m.singly = singly
		readSingly(singly)
	}
	was := debug.SetMemoryLimit(-1)
	limit := softLimit(group, needed())
	if limit == was {
		return
	}
	debug.SetMemoryLimit(limit)
	m.again()
	if limit < was {
		tidy()
	}
}

// files is where the machine's files are.
func (m *Memory) files() string {
	if m.root == "" {
		return "/"
	}
	return m.root
}
