package session

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "run the simulation with this seed only")
	simSteps = flag.Int("sim.steps", 2000, "steps of one simulation")
	simRuns  = flag.Int("sim.runs", 50, "simulations, each with a seed of its own")
)

// simRow is a row of the simulated edge's store.
type simRow struct {
	object.Version
	cloudGen uint64
	held     bool
}

// simWrite is an entry of the simulated edge's outbox: the newest generation that the edge wrote into an object.
type simWrite struct {
	id  uint64
	key object.Key
	uid string
	gen uint64
}

// simEdge is the edge's store and its present session.
type simEdge struct {
	rows    map[object.Key]simRow
	durable map[object.Key]simRow // what a power cut leaves of rows
	outbox  map[uint64]simWrite   // never lost (I2)
	gens    map[string]uint64     // by uid: the last generation that the edge wrote
	nextID  uint64
	session *Edge
	pending []Effect // batches and syncs that wait for their commit, in order
	synced  bool
}

// simLink is one connection: frames on their way, and the hub's session at its other end.
type simLink struct {
	hub      *Hub
	cache    *simCache
	down, up [][]byte
	writes   []*wire.Write // being applied to the API server, in any order
	checks   int
	dead     bool // the edge is no longer there; the hub may not know it yet
}

// sim joins a cluster, caches, links and one edge. Every step is drawn from one seed.
type sim struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Time
	cluster *simCluster
	caches  []*simCache
	edge    *simEdge
	link    *simLink
	old     []*simLink // connections that the edge has left, whose hub still works
	window  int
	// restores is how often the cluster was restored: versions may then go back.
	restores, declared int
	mayRestore         bool
	calm               bool // the API server fails no more
}

func TestSimulation(t *testing.T) {
	seeds := []uint64{*simSeed}
	if *simSeed == 0 {
		seeds = nil
		for i := range *simRuns {
			seeds = append(seeds, uint64(i)+1)
		}
		seeds = append(seeds, rand.Uint64())
	}
	t.Logf("%d steps each of seeds 1 to %d and %d", *simSteps, *simRuns, seeds[len(seeds)-1])
	for _, seed := range seeds {
		if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { runSim(t, seed, *simSteps) }) {
			t.Fatalf("again with: go test ./common/session -run TestSimulation -sim.seed=%d -sim.steps=%d", seed, *simSteps)
		}
	}
}

func runSim(t *testing.T, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	s := &sim{t: t, rnd: rnd, now: time.Unix(1e9, 0), cluster: newSimCluster(rnd), window: 200 + rnd.IntN(2000), mayRestore: seed%2 == 0,
		edge: &simEdge{rows: map[object.Key]simRow{}, durable: map[object.Key]simRow{}, outbox: map[uint64]simWrite{}, gens: map[string]uint64{}, nextID: 1}}
	for range 2 {
		s.addCache()
	}
	for range steps {
		s.step()
	}
	if seed%3 == 0 {
		// The last thing that happens: nothing later lifts the versions above what the edge holds.
		s.restore()
	}
	s.quiesce()
	s.checkConverged()
}

func (s *sim) addCache() {
	c := newSimCache(s.cluster, func() int { return s.rnd.IntN(4) })
	s.watch(c)
	s.caches = append(s.caches, c)
}

func (s *sim) watch(c *simCache) {
	c.changed = func(k object.Key) {
		for _, l := range s.links() {
			if l.cache == c {
				l.hub.Changed(s.now, []object.Key{k})
			}
		}
	}
}

func (s *sim) links() []*simLink {
	if s.link == nil {
		return s.old
	}
	return append([]*simLink{s.link}, s.old...)
}

func (s *sim) step() {
	s.now = s.now.Add(time.Duration(s.rnd.IntN(40)) * time.Millisecond)
	switch n := s.rnd.IntN(1000); {
	case n < 150:
		s.cluster.mutate()
	case n < 330:
		c := s.caches[s.rnd.IntN(len(s.caches))]
		c.step(s.cluster.kinds[s.rnd.IntN(3)])
	case n < 400:
		s.edgeWrites()
	case n < 990:
		// Both ends work much faster than things change, else the edge would hold next to nothing.
		for range 4 {
			s.work()
			s.checkBounds()
		}
	case n < 993:
		s.cut()
	case n < 995:
		s.powerCut()
	case n < 997:
		s.restartHub()
	case n < 998 && s.restores < 2 && s.mayRestore:
		s.restore()
	default:
		s.connect()
	}
	s.checkBounds()
}

// work lets one end do one thing.
func (s *sim) work() {
	if s.link == nil {
		s.connect()
		return
	}
	ls := s.links()
	l := ls[s.rnd.IntN(len(ls))]
	switch s.rnd.IntN(7) {
	case 6:
		s.commit()
	case 0:
		s.deliverDown(s.link)
	case 1:
		s.deliverUp(l)
	case 2:
		effects, _ := l.hub.Poll(s.now)
		s.hubEffects(l, effects)
	case 3:
		s.edgePoll()
	case 4:
		s.apiServerAnswers(l)
	case 5:
		if l.checks > 0 {
			l.checks = 0
			s.hubEffects(l, l.hub.RevisionChecked(s.cluster.rv))
		}
	}
}

// connect makes a new session at a random hub; the old one's hub notices late.
func (s *sim) connect() {
	s.cut()
	cache := s.caches[s.rnd.IntN(len(s.caches))]
	l := &simLink{cache: cache, hub: NewHub(HubConfig{Node: "edge", Window: s.window, BatchBytes: s.window / 4}, cache, s.now)}
	s.link = l
	for _, p := range s.edge.pending { // the store finishes what it had accepted before the next Hello
		s.apply(p)
	}
	s.edge.pending = nil
	held := Held{Digests: map[object.ID]object.Digest{}, NodeUID: s.edge.rows[simNodeKey].UID}
	for k, r := range s.edge.rows {
		if !r.held {
			d := held.Digests[k.Kind]
			d.Add(k, r.Version)
			held.Digests[k.Kind] = d
		}
	}
	s.edge.session = NewEdge(EdgeConfig{Node: "edge", PingInterval: time.Second, Rand: s.rnd.Float64}, held)
	s.edgeEffects(s.edge.session.Start(s.now))
	for _, w := range s.edge.outbox {
		s.edge.session.Queued(Head{ID: w.id, Key: w.key})
	}
}

func (s *sim) cut() {
	if s.link == nil {
		return
	}
	s.link.dead = true
	s.link.down = nil
	if s.rnd.IntN(2) == 0 {
		s.link.up = nil
	}
	s.old = append(s.old, s.link)
	if len(s.old) > 3 {
		s.old = s.old[1:]
	}
	s.link, s.edge.session = nil, nil
}

// powerCut takes the edge's volatile state: the newest commits of its cache, never its outbox.
func (s *sim) powerCut() {
	s.cut()
	s.edge.pending = nil
	if s.rnd.IntN(2) == 0 {
		s.edge.rows = maps.Clone(s.edge.durable)
	}
	if s.rnd.IntN(10) == 0 {
		s.edge.rows, s.edge.durable, s.edge.synced = map[object.Key]simRow{}, map[object.Key]simRow{}, false
	}
}

func (s *sim) restartHub() {
	i := s.rnd.IntN(len(s.caches))
	if s.link != nil && s.link.cache == s.caches[i] {
		s.cut()
	}
	var keep []*simLink
	for _, l := range s.old {
		if l.cache != s.caches[i] {
			keep = append(keep, l)
		}
	}
	s.old = keep
	s.caches[i] = newSimCache(s.cluster, func() int { return s.rnd.IntN(30) })
	s.watch(s.caches[i])
}

// restore puts an old backup in place: every watch breaks, every cache lists anew.
func (s *sim) restore() {
	s.restores++
	s.cut()
	s.old = nil
	s.cluster.restore(uint64(s.rnd.IntN(40)))
	for i := range s.caches {
		s.caches[i] = newSimCache(s.cluster, func() int { return 0 })
		s.watch(s.caches[i])
	}
}

func (s *sim) put(q *[][]byte, f *wire.Frame) {
	b, err := wire.Append(nil, f)
	if err != nil {
		s.t.Fatalf("a frame that cannot be written: %v", err)
	}
	*q = append(*q, b)
}

func (s *sim) pop(q *[][]byte) *wire.Frame {
	f, err := wire.Read(bytes.NewReader((*q)[0]), wire.MaxFrame)
	if err != nil {
		s.t.Fatalf("a frame that cannot be read: %v", err)
	}
	*q = (*q)[1:]
	return f
}

func (s *sim) deliverDown(l *simLink) {
	if len(l.down) == 0 {
		return
	}
	effects, err := s.edge.session.Receive(s.now, s.pop(&l.down))
	if err != nil {
		s.t.Fatalf("edge: %v", err)
	}
	s.edgeEffects(effects)
}

func (s *sim) deliverUp(l *simLink) {
	if len(l.up) == 0 {
		return
	}
	effects, err := l.hub.Receive(s.now, s.pop(&l.up))
	if err != nil {
		s.t.Fatalf("hub: %v", err)
	}
	s.hubEffects(l, effects)
}

func (s *sim) hubEffects(l *simLink, effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Send:
			if !l.dead {
				s.put(&l.down, e.Frame)
			}
		case DoWrite:
			for _, w := range l.writes {
				if w.Kind == e.Write.Kind && w.Namespace == e.Write.Namespace && w.Name == e.Write.Name {
					s.t.Fatalf("I2: writes %d and %d of %s are applied at the same time", w.Id, e.Write.Id, w.Name)
				}
			}
			l.writes = append(l.writes, e.Write)
		case CheckRevision:
			l.checks++
		case DeclareRestore:
			s.declared++
			if s.restores == 0 {
				s.t.Fatalf("the hub declared a restore of %s (edge holds %d, server has %d), but there was none", e.Key, e.Held, e.Server)
			}
		case Close:
			if e.Reason != wire.Reason_REASON_UNSPECIFIED {
				s.t.Fatalf("hub closed: %s %s", e.Reason, e.Message)
			}
			if s.link == l {
				s.cut()
			}
		}
	}
}

// apiServerAnswers applies one of the writes that a hub has under way, not in their order, or fails it.
func (s *sim) apiServerAnswers(l *simLink) {
	if len(l.writes) == 0 {
		return
	}
	i := s.rnd.IntN(len(l.writes))
	w := l.writes[i]
	l.writes = append(l.writes[:i], l.writes[i+1:]...)
	r := &wire.Result{Code: 503}
	if s.calm || s.rnd.IntN(4) > 0 {
		k := object.Key{Kind: object.ID(w.Kind), Namespace: w.Namespace, Name: w.Name}
		var gen uint64
		fmt.Sscan(string(w.Body), &gen)
		r.Code = int32(s.cluster.write(k, w.Uid, gen))
		r.Final = true
	}
	s.hubEffects(l, l.hub.Written(w, r))
}
