package mqtt

import (
	"slices"
	"sync"
	"time"

	"github.com/tether-edge/tether/common/localsocket"
)

// A gate counts connections: in all, those of one address that were not admitted yet, and the others by lot. Connections without a
// CONNECT give way to newer ones, so that opening connections and saying nothing keeps nobody out.
type gate struct {
	limits  Limits
	metrics *metrics
	look    looker

	// choosing is held while it is looked up who has to give way, before mu. Who waits for it cannot be evicted, and has a place in
	// choosers: else a flood would fill its address with them.
	choosing sync.Mutex
	choosers chan struct{}
	looked   time.Time // at all processes, last

	mu      sync.Mutex // guards the fields below
	all     int
	strange map[string]int // not admitted yet, by address
	waiting []*conn        // those of them without a CONNECT yet, oldest first
	lots    map[string][]*conn
	open    map[*conn]bool
	shut    bool // nobody enters any more
}

func newGate(limits Limits, m *metrics) *gate {
	return &gate{limits: limits, metrics: m, look: kernel{}, choosers: make(chan struct{}, maxChoosers), strange: map[string]int{}, lots: map[string][]*conn{}, open: map[*conn]bool{}}
}

// enter reports whether c may come in; leave must be called when it is gone. begin is called if so, before close can begin.
func (g *gate) enter(c *conn, begin func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	from := c.ip.String()
	if g.strange[from] >= g.limits.ConnectionsPerAddress && !g.evict(func(w *conn) bool { return w.ip.Equal(c.ip) }) {
		g.metrics.refused.WithLabelValues("address").Inc()
		return false
	}
	if g.all >= g.limits.Connections && !g.evict(func(*conn) bool { return true }) {
		g.metrics.refused.WithLabelValues("connections").Inc()
		return false
	}
	g.all++
	g.strange[from]++
	g.open[c] = true
	g.waiting = append(g.waiting, c)
	g.metrics.connections.Set(float64(g.all))
	begin()
	return true
}

// evict closes the oldest connection that waits for its CONNECT and fits. Its place is free at once: leave finds it gone.
func (g *gate) evict(fits func(*conn) bool) bool {
	i := slices.IndexFunc(g.waiting, fits)
	if i < 0 {
		return false
	}
	g.metrics.refused.WithLabelValues("silent").Inc()
	g.end(g.waiting[i])
	return true
}

// end closes a connection. Called with mu held.
func (g *gate) end(c *conn) {
	g.release(c)
	_ = c.Close()
}

// connected notes that c has sent its CONNECT. It reports false if c was closed for a newer one.
func (g *gate) connected(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.forget(c)
}

func (g *gate) forget(c *conn) bool {
	i := slices.Index(g.waiting, c)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

// known notes that c is no stranger any more, or no more. Called with mu held, once.
func (g *gate) known(c *conn) {
	from := c.ip.String()
	if g.strange[from]--; g.strange[from] == 0 {
		delete(g.strange, from)
	}
}

// release gives c's place back, once.
func (g *gate) release(c *conn) {
	g.forget(c)
	if !g.open[c] {
		return
	}
	delete(g.open, c)
	g.all--
	if i := slices.Index(g.lots[c.lot], c); i < 0 {
		g.known(c)
	} else {
		if g.lots[c.lot] = slices.Delete(g.lots[c.lot], i, i+1); len(g.lots[c.lot]) == 0 {
			delete(g.lots, c.lot)
		}
	}
	g.metrics.connections.Set(float64(g.all))
}

func (g *gate) leave(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(c)
}

// close closes all that are inside, wherever they are between accepting and serving, and lets nobody in.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	for c := range g.open {
		_ = c.Close()
	}
}

// local is the lot of those on this machine who have no name.
const local = "this machine"

// lotOf is whom c counts as, once it is known: its user, or nobody in particular, at its address.
func lotOf(c *conn, user string) string {
	at := c.ip.String()
	if c.ip.IsLoopback() { // who is here has all of 127.0.0.0/8
		at = local
	}
	if user == "" {
		return at
	}
	return user + " at " + at
}

// admit finds a place in c's lot, and returns why there is none; "" if there is. It takes that of former, if that is in the same lot. In
// the lot of those without a name on this machine the processes share: where it is full, the latest connection of the one that has the
// most gives way to others.
func (g *gate) admit(c *conn, user string, former *conn) (refused string) {
	lot := lotOf(c, user)
	if g.join(c, lot, former, nil) {
		return ""
	}
	if lot != local {
		return "address"
	}
	select {
	case g.choosers <- struct{}{}:
		defer func() { <-g.choosers }()
	default:
		return "busy"
	}
	g.choosing.Lock()
	defer g.choosing.Unlock()
	g.mu.Lock()
	all := slices.Clone(g.lots[lot])
	g.mu.Unlock()
	victim := g.greedy(all, c)
	if victim == nil || !g.join(c, lot, former, victim) {
		return "address"
	}
	return ""
}

// join has c join a lot, if there is a place, or victim, if it is not nil, has to give its own.
func (g *gate) join(c *conn, lot string, former, victim *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open[c] {
		return false
	}
	if all := g.lots[lot]; len(all) >= g.limits.ConnectionsPerAddress && !slices.Contains(all, former) {
		if victim == nil {
			return false
		}
		if g.open[victim] {
			g.metrics.refused.WithLabelValues("process").Inc()
			g.end(victim)
		}
	}
	g.known(c)
	c.lot = lot
	g.lots[lot] = append(g.lots[lot], c)
	return true
}

// A looker knows which process a connection within this machine is of.
type looker interface {
	all(links []localsocket.Link) (map[localsocket.Link]int, error)
	// socket names the far end of a connection, 0 where it is closed; has reports whether a process has it.
	socket(l localsocket.Link) (inode uint64, err error)
	has(pid int, inode uint64) (bool, error)
}

type kernel struct{}

func (kernel) all(links []localsocket.Link) (map[localsocket.Link]int, error) {
	return localsocket.Processes(links)
}
func (kernel) socket(l localsocket.Link) (uint64, error) { return localsocket.Inode(l) }
func (kernel) has(pid int, inode uint64) (bool, error)   { return localsocket.Opened(pid, inode) }

const (
	// lookAgain is how often it is looked up at most which process each connection is of: that reads all there are.
	lookAgain = time.Second
	// fewest is the part of a lot that a process has at least which gives way.
	fewest = 8
	// maxChoosers are how many newcomers may wait at once until it is known who gives way to them.
	maxChoosers = 16
)

// greedy returns the connection that gives way to a newcomer, nil for none: where the newcomer is of a process that has as many as any
// other, or it cannot be seen of whom they are. Called with choosing held.
func (g *gate) greedy(all []*conn, newcomer *conn) *conn {
	if now := time.Now(); now.Sub(g.looked) >= lookAgain {
		g.looked = now
		var links []localsocket.Link
		for _, c := range all {
			if c.process == 0 {
				links = append(links, c.link())
			}
		}
		found, err := g.look.all(links)
		if err != nil {
			return nil
		}
		for _, c := range all {
			if pid := found[c.link()]; pid != 0 {
				c.process = pid
			}
		}
	}
	count, latest, most := map[int]int{}, map[int]*conn{}, 0
	for _, c := range all {
		if c.process != 0 {
			count[c.process]++
			latest[c.process] = c
			most = max(most, count[c.process])
		}
	}
	if most < max(2, len(all)/fewest) {
		return nil
	}
	inode, err := g.look.socket(newcomer.link())
	if err != nil || inode == 0 {
		return nil
	}
	var victim *conn
	for pid, n := range count {
		if n < most-1 {
			continue
		}
		if own, err := g.look.has(pid, inode); own || err != nil {
			return nil
		}
		if n == most {
			victim = latest[pid]
		}
	}
	return victim
}
