package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tether-edge/tether/build"
	"github.com/tether-edge/tether/tests/stack"
)

// The burst: that many ConfigMaps, each changed that often, by that many workers.
const (
	burstMaps    = 100
	burstUpdates = 10
	burstWorkers = 16
	// fewMaps are changed so fast, even where 1,000 writes take three seconds, that each changes every 80 ms: as often as
	// where they take 0.8 s.
	fewMaps = 30
)

// auditPolicy lets the API server note what CloudCore asks of it, and nothing else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  users: ["` + build.User + `"]
- level: None
`

// measureBurst changes many ConfigMaps as fast as the API server takes it.
func measureBurst(ctx context.Context, b *bench) error {
	audit := ""
	m, err := b.mapsSystem(ctx, burstMaps, func(dir string) error {
		audit = filepath.Join(dir, "audit.log")
		return os.WriteFile(filepath.Join(dir, "audit.yaml"), []byte(auditPolicy), 0o600)
	}, "--component-arg", "kube-apiserver=--audit-policy-file=DIR/audit.yaml", "--component-arg", "kube-apiserver=--audit-log-path=DIR/audit.log")
	if err != nil {
		return err
	}
	counter, err := countWire(ctx, m.edge, m.Server())
	if err != nil {
		return m.down(err)
	}
	var sum burstSum
	for _, maps := range []int{burstMaps, fewMaps} {
		sum = burstSum{}
		for range b.times(false) {
			// Nothing else is on its way then, and every key may be sent at once.
			if err := wait(ctx, 2*time.Second); err != nil {
				return m.down(err)
			}
			r, err := m.burst(ctx, counter, audit, maps)
			if err != nil {
				return m.down(err)
			}
			sum.add(r)
		}
		if maps == burstMaps {
			sum.show(b)
		}
	}
	what := fmt.Sprintf("burst over %d ConfigMaps", fewMaps)
	b.figure(Figure{What: what + ": the writing itself", Unit: "s", Values: sum.writing, Note: "each changes as often as 100 do where the writing takes 3.3 times as long"})
	b.figure(Figure{What: what + ": last write's return to all final at the edge", Unit: "s", Values: sum.after})
	b.figure(Figure{What: what + ": cloud to edge", Unit: "KB", Values: sum.down})
	b.figure(Figure{What: what + ": edge to cloud", Unit: "KB", Values: sum.up})
	return m.down(nil)
}

// burstSum collects the repetitions.
type burstSum struct {
	writing, after, requests, down, up []float64
	note                               []string
}

func (s *burstSum) add(r burstResult) {
	s.writing, s.after, s.requests = append(s.writing, r.writing), append(s.after, r.after), append(s.requests, float64(r.requests.others))
	s.down, s.up = append(s.down, float64(r.wire.down)/1e3), append(s.up, float64(r.wire.up)/1e3)
	s.note = append(s.note, r.requests.String())
}

func (s *burstSum) show(b *bench) {
	b.figure(Figure{What: "burst: the writing itself", Unit: "s", Values: s.writing})
	b.figure(Figure{What: "burst: last write's return to all final at the edge", Unit: "s", Limit: atMost(0.3), Values: s.after})
	b.figure(Figure{What: "burst: API-server requests by cloudcore", Limit: atMost(0), Values: s.requests, Note: strings.Join(s.note, "; ")})
	b.figure(Figure{What: "burst: cloud to edge", Unit: "KB", Limit: atMost(60), Values: s.down})
	b.figure(Figure{What: "burst: edge to cloud", Unit: "KB", Limit: atMost(10), Values: s.up})
}

type burstResult struct {
	writing, after float64 // seconds
	requests       requests
	wire           wireBytes
}

func (m *mapsSystem) burst(ctx context.Context, counter *wireCounter, audit string, maps int) (r burstResult, err error) {
	before, err := counter.read(ctx)
	if err != nil {
		return r, err
	}
	start := time.Now()
	var mu sync.Mutex // guards last
	var last time.Time
	first := m.value + 1
	m.value += burstUpdates
	group, gctx := errgroup.WithContext(ctx)
	for worker := range burstWorkers {
		group.Go(func() error {
			for value := first; value <= m.value; value++ {
				// A key has one writer, so that its last value is known.
				for i := worker; i < maps; i += burstWorkers {
					_, done, err := setMapTo(gctx, m.Admin, i, body(i, value))
					if err != nil {
						return err
					}
					mu.Lock()
					if done.After(last) {
						last = done
					}
					mu.Unlock()
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return r, err
	}
	final, err := m.far.sawAll(ctx, mapsAt(maps, m.value), readyTimeout)
	if err != nil {
		return r, err
	}
	// The last acknowledgement.
	if err := wait(ctx, 300*time.Millisecond); err != nil {
		return r, err
	}
	end := time.Now()
	after, err := counter.read(ctx)
	if err != nil {
		return r, err
	}
	r.writing, r.after = last.Sub(start).Seconds(), max(final.Sub(last).Seconds(), 0)
	r.wire = wireBytes{down: after.down - before.down, up: after.up - before.up}
	r.requests, err = readAudit(audit, start, end)
	return r, err
}

// requests are what CloudCore asked of the API server in some time.
type requests struct {
	leases int // its own renewals, which go on at all times
	node   int // writes that the edge made and CloudCore passed on in its name
	others int
}

func (r requests) String() string {
	return fmt.Sprintf("%d (besides %d Lease renewals and %d writes of the node's own)", r.others, r.leases, r.node)
}

// readAudit counts the requests of an audit log (audit.k8s.io/v1, one event a line) that came between two times.
func readAudit(path string, from, to time.Time) (r requests, err error) {
	file, err := os.Open(path)
	if err != nil {
		return r, fmt.Errorf("read the audit log: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			RequestReceivedTimestamp time.Time
			ImpersonatedUser         *struct{ Username string }
			ObjectRef                struct{ Resource string }
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return r, fmt.Errorf("read the audit log: %w", err)
		}
		switch {
		case e.RequestReceivedTimestamp.Before(from) || e.RequestReceivedTimestamp.After(to):
		case e.ImpersonatedUser != nil:
			r.node++
		case e.ObjectRef.Resource == "leases":
			r.leases++
		default:
			r.others++
		}
	}
	if err := lines.Err(); err != nil {
		return r, fmt.Errorf("read the audit log: %w", err)
	}
	return r, nil
}

// wireBytes are bytes of IP packets, by direction.
type wireBytes struct{ down, up int64 }

// wireCounter counts what crosses an edge's cable from and to the hub's port, with rules of the edge's own network.
type wireCounter struct {
	edge *stack.Edge
	port string
}

func countWire(ctx context.Context, e *stack.Edge, server string) (*wireCounter, error) {
	_, port, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("count the bytes of the link: %w", err)
	}
	for _, rule := range [][]string{{"-I", "INPUT", "-i", "eth0", "-p", "tcp", "--sport", port}, {"-I", "OUTPUT", "-o", "eth0", "-p", "tcp", "--dport", port}} {
		if _, err := e.Run(ctx, append([]string{"iptables", "--wait", "5"}, rule...)...); err != nil {
			return nil, fmt.Errorf("count the bytes of the link: %w", err)
		}
	}
	return &wireCounter{edge: e, port: port}, nil
}

// read reads the counters. In iptables -v the second column is bytes.
func (c *wireCounter) read(ctx context.Context) (w wireBytes, err error) {
	for chain, into := range map[string]*int64{"INPUT": &w.down, "OUTPUT": &w.up} {
		text, err := c.edge.Run(ctx, "iptables", "--wait", "5", "-nvxL", chain)
		if err != nil {
			return w, fmt.Errorf("read the counters of the link: %w", err)
		}
		found := false
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) > 2 && strings.Contains(line, "pt:"+c.port) {
				if *into, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
					return w, fmt.Errorf("read the counters of the link: %w", err)
				}
				found = true
			}
		}
		if !found {
			return w, errors.New("read the counters of the link: expected a rule for the hub's port in " + chain + ", found none")
		}
	}
	return w, nil
}
