package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	corev1 "k8s.io/api/core/v1"

	"github.com/tether-edge/tether/common/object"
)

// A Store is the node's database. Open makes one, Start runs it, Close ends it; all other methods are safe for
// concurrent use in between. Writes wait until Start runs; reads do not.
type Store struct {
	cfg     Config
	log     *slog.Logger
	clock   Clock
	metrics *metrics
	files   files
	lock    *os.File
	id      string
	sealing *sealing
	spent   *spent
	// withhold is Deps.Withhold, overspent Deps.Overspent.
	withhold  func(pod *corev1.Pod, kept []*corev1.Pod) bool
	overspent func(Overspent)

	requests chan *request
	jobs     chan *job
	readers  chan *conn
	remade   remade
	opened   int // how many readers there are
	w        *writer
	damage   chan error // what a reader found
	closed   chan struct{}
	stopped  chan struct{} // closed when the writer has ended
	watchers sync.WaitGroup

	// snapshots guards committed and is held while a transaction is committed and published.
	snapshots sync.RWMutex
	committed uint64 // the last local resourceVersion that readers see
	startRV   uint64 // the one at Open: older ones were given out by an earlier process
	rvLimit   atomic.Uint64

	firstSync chan struct{}
	whole     chan struct{} // see Whole
	copies    *copier

	// mu guards the fields below. It is never held during a read or write of the database.
	mu            sync.Mutex
	started, over bool
	feeds         map[object.ID]*feed
	synced        map[object.ID]bool
	nextSync      chan struct{} // closed and replaced by the next MarkSynced
	epoch         string
	losses        [classes]Losses
	outboxes      map[*Outbox]struct{}
	changes       uint64 // transactions that changed what the second copy holds
	status        Status
}

// A job is work for the writer's connection outside of a transaction.
type job struct {
	do   func(*conn) error
	done chan error
}

// Open opens the database in cfg.Dir, creates it, or repairs it: see docs/storage.md. One process at a time can have it
// open. Start must run before anything can be written, and Close must be called in the end.
//
// Errors: ErrNewer if a later version wrote the database (nothing is changed then); object.ErrFull if there is no room
// to repair it; else what the file system or deps.Seal says.
func Open(ctx context.Context, cfg Config, deps Deps) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, log: deps.Log, clock: deps.Clock, withhold: deps.Withhold, overspent: deps.Overspent, files: files{cfg.Dir},
		requests: make(chan *request, queueLength), jobs: make(chan *job), readers: make(chan *conn, readers),
		damage: make(chan error, 1), closed: make(chan struct{}), stopped: make(chan struct{}), firstSync: make(chan struct{}), nextSync: make(chan struct{}), whole: make(chan struct{}),
		feeds: map[object.ID]*feed{}, synced: map[object.ID]bool{}, outboxes: map[*Outbox]struct{}{},
	}
	s.copies = &copier{s: s}
	if s.clock == nil {
		s.clock = systemClock{}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s.lock = lock
	s.useReserve()
	if s.metrics, err = newMetrics(deps.Registerer); err == nil {
		s.spent = newSpent(cfg.WriteBudget, s.metrics)
		before := writtenAll()
		err = s.open(ctx, deps.Seal)
		s.spent.add(0, wornStart, writtenAll()-before)
	}
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	if err := s.keepReserve(); err != nil {
		s.log.Warn("no room is kept for a start on a full disk", "error", err)
	}
	return s, nil
}

// lockDir makes sure that no other process has the directory open. The lock goes with the process, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("store: another process uses %s: stop it first: %w", dir, err), f.Close())
	}
	return f, nil
}

func (s *Store) open(ctx context.Context, openSeal func(context.Context) (Sealer, error)) error {
	scripts, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	if openSeal != nil {
		seal, err := openSeal(ctx)
		if err != nil {
			return wrap("open the keys that Secrets are sealed with", err)
		}
		s.sealing = newSealing(seal)
	}
	unclean := s.files.unclean()
	if err := s.mend(ctx, scripts); err != nil {
		return err
	}
	isNew := !exists(s.files.main())
	if err := s.openMain(scripts); err != nil {
		return err
	}
	if isNew && s.sealing != nil {
		err = s.w.c.setMeta(metaSealed, "1")
	} else {
		err = s.renew(scripts)
	}
	if err != nil {
		return err
	}
	if err := s.load(s.w.c, unclean); err != nil {
		return err
	}
	if err := s.reseal(s.w.c); err != nil {
		return err
	}
	for range readers {
		r, err := openConn(s.files.main(), modeWrite, readerPragmas()...)
		if err != nil {
			return err
		}
		r.sealing = s.sealing
		s.readers <- r
		s.opened++
	}
	return nil
}

// openMain opens the database for the writer.
func (s *Store) openMain(scripts []string) error {
	c, err := openWriter(s.files.main())
	if err != nil {
		return err
	}
	c.sealing = s.sealing
	c.rows = map[string]int64{}
	s.w = &writer{s: s, c: c, full: true}
	return migrate(c, scripts)
}

// uncleanSkip is how many blocks of versions are skipped where the process ended without closing the database: of a
// damaged log SQLite silently drops the end, and with it perhaps the reservation of a block.
const uncleanSkip = 8

// load reads what is kept in memory, and gives a new database its name and its versions.
func (s *Store) load(c *conn, unclean bool) error {
	if err := ensureIdentity(c); err != nil {
		return err
	}
	var err error
	if s.id, err = c.meta(metaID); err != nil {
		return err
	}
	if s.epoch, err = c.meta(metaEpoch); err != nil {
		return err
	}
	block, err := readBlock(c)
	if err != nil {
		return err
	}
	if unclean {
		block += uncleanSkip * rvBlock
	}
	s.startRV, s.committed = block, block
	s.w.next, s.w.limit = block+1, block
	s.rvLimit.Store(block)
	var found [classes]int64
	if s.w.used, found, err = usage(c); err != nil {
		return err
	}
	s.metrics.found(found)
	if err := c.query("SELECT class, reason, count FROM losses", nil, func(scan func(...any) error) error {
		var class, n int64
		var reason string
		if err := scan(&class, &reason, &n); err != nil {
			return err
		}
		if class >= 0 && class < classes {
			s.losses[class].add(reason, uint64(n))
		}
		return nil
	}); err != nil {
		return wrap("read losses", err)
	}
	kinds := localKinds()
	if err := c.query("SELECT kind FROM kinds", nil, func(scan func(...any) error) error {
		var k object.ID
		err := scan(&k)
		kinds = append(kinds, k)
		return err
	}); err != nil {
		return wrap("read kinds", err)
	}
	s.markSynced(kinds)
	partial, err := c.meta(metaPartial)
	if err == nil && partial == "" {
		close(s.whole)
	}
	return err
}

func readBlock(c *conn) (uint64, error) {
	v, err := c.meta(metaRVBlock)
	if err != nil {
		return 0, err
	}
	n, err := object.ParseRV(v)
	if err == nil && n > maxRV {
		err = fmt.Errorf("resourceVersion %d: expected %d at most", n, uint64(maxRV))
	}
	if err != nil {
		return 0, fmt.Errorf("meta %s: %w: %w", metaRVBlock, err, ErrDamaged)
	}
	return n, nil
}

// ensureIdentity gives a database that has none an id and a first block of versions. The block begins at a random
// place, so that a watcher of a lost database is not mistaken for one of this.
func ensureIdentity(c *conn) error {
	return wrap("set up the database", c.transaction(func() error {
		id, err := c.meta(metaID)
		if err != nil || id != "" {
			return err
		}
		n, err := rand.Int(rand.Reader, big.NewInt(1<<20))
		if err != nil {
			return fmt.Errorf("random: %w", err)
		}
		// Between 2^32 and 2^52: exact even where a client takes numbers for floating point.
		if err := c.setMeta(metaRVBlock, object.FormatRV((n.Uint64()+1)<<32)); err != nil {
			return err
		}
		return c.setMeta(metaID, rand.Text())
	}))
}

// Start runs the writer and the upkeep of the files. It blocks until ctx is done and then returns nil, or until the
// database is found damaged and then returns ErrDamaged: the process must end, and the next Open repairs. It is called
// once.
func (s *Store) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.over {
		s.mu.Unlock()
		return errors.New("store: Start was called twice, or after Close")
	}
	s.started = true
	s.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	upkeep := make(chan struct{})
	go func() {
		defer close(upkeep)
		s.upkeep(ctx)
	}()
	ended := make(chan error, 1)
	go func() { ended <- s.w.loop(ctx) }()
	var err error
	select {
	case err = <-ended:
	case err = <-s.damage:
		cancel()
		<-ended
	}
	cancel()
	s.stop()
	<-upkeep
	s.watchers.Wait()
	if err != nil {
		s.files.suspect(s.log)
	}
	return err
}

// stop refuses what comes from now on.
func (s *Store) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.stopped)
	}
}

// reportDamage ends Start.
func (s *Store) reportDamage(err error) {
	select {
	case s.damage <- err:
	default:
	}
}

// Close closes the database. Start must have returned, if it was called.
func (s *Store) Close() error {
	s.stop()
	close(s.closed)
	return s.release()
}

// release closes all files, waiting for readers.
func (s *Store) release() error {
	var errs []error
	if s.w != nil {
		for range s.opened {
			errs = append(errs, (<-s.readers).close())
		}
		// The last connection to close moves the log into the database.
		errs = append(errs, s.w.c.close())
	}
	s.metrics.unregister()
	return errors.Join(append(errs, s.lock.Close())...)
}
