package session

import (
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

var update = flag.Bool("update", false, "write what the traces in testdata show now")

// TestTraces replays the scripts in testdata: each line is a command, the indented lines below it are what both ends did.
// trace.commands lists the commands. After a change that is meant: go test ./common/session -update, and read the
// difference.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no traces in testdata (error %v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if got == string(want) {
				return
			}
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s shows something else now (go test ./common/session -update writes it):\n%s", file, firstDifference(string(want), got))
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		line := func(s []string) string {
			if i < len(s) {
				return s[i]
			}
			return "(the end)"
		}
		if line(w) != line(g) {
			return fmt.Sprintf("line %d, after %q\nwant: %s\ngot:  %s", i+1, lastCommand(w, i), line(w), line(g))
		}
	}
	return ""
}

func lastCommand(lines []string, i int) string {
	for i = min(i, len(lines)) - 1; i >= 0; i-- {
		if lines[i] != "" && !strings.HasPrefix(lines[i], " ") {
			return lines[i]
		}
	}
	return ""
}

func replay(t *testing.T, script string) string {
	tr := newTrace(t)
	for _, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, " "):
			continue // what it showed before
		case line == "" || strings.HasPrefix(line, "#"):
			fmt.Fprintln(&tr.out, line)
		default:
			fmt.Fprintln(&tr.out, line)
			tr.command(strings.Fields(line), line)
		}
	}
	return tr.out.String()
}

// trace joins a view, both machines, and the edge's store, and writes down what they do.
type trace struct {
	t        *testing.T
	out      strings.Builder
	now      time.Time
	view     *traceView
	hub      *Hub
	edge     *Edge
	up, down [][]byte
	rows     map[object.Key]object.Version // the edge's store
	commits  []Effect                      // of the edge, that wait for commit
	writes   map[uint64]*wire.Write        // at the hub, without an answer
	keys     map[uint64]object.Key         // the edge's outbox
	quiet    bool
}

func newTrace(t *testing.T) *trace {
	tr := &trace{t: t, now: time.Unix(1_000_000, 0), view: newTraceView(), rows: map[object.Key]object.Version{},
		writes: map[uint64]*wire.Write{}, keys: map[uint64]object.Key{}}
	return tr
}

func (tr *trace) say(format string, args ...any) {
	if !tr.quiet {
		fmt.Fprintf(&tr.out, "  "+format+"\n", args...)
	}
}

// args reads "a=1 b=2"; words without "=" are flags.
type args map[string]string

func parseArgs(words []string) args {
	a := args{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		a[k] = v
	}
	return a
}

func (tr *trace) number(a args, name string, def uint64) uint64 {
	s, ok := a[name]
	if !ok {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		tr.t.Fatalf("%s=%s: %v", name, s, err)
	}
	return n
}

func (tr *trace) list(a args, name string) []string {
	if a[name] == "" {
		return nil
	}
	return strings.Split(a[name], ",")
}

func (tr *trace) command(words []string, line string) {
	run := map[string]func(words []string, a args){
		// The cluster as the hub's cache shows it. A change is told to the hub.
		"put":      func(w []string, a args) { tr.put(parseKey(tr.t, w[1]), a) },
		"delete":   func(w []string, a args) { tr.remove(parseKey(tr.t, w[1]), a) },
		"hide":     func(w []string, _ args) { tr.toggle(parseKey(tr.t, w[1]), func(o *traceObject) { o.visible = false }) },
		"show":     func(w []string, _ args) { tr.toggle(parseKey(tr.t, w[1]), func(o *traceObject) { o.visible = true }) },
		"blink":    func(w []string, _ args) { tr.toggle(parseKey(tr.t, w[1]), func(o *traceObject) { o.blinks = true }) },
		"pending":  func(w []string, _ args) { tr.view.pending[parseKey(tr.t, w[1])] = true },
		"arrived":  func(w []string, _ args) { k := parseKey(tr.t, w[1]); delete(tr.view.pending, k); tr.changed(k) },
		"touch":    func(w []string, _ args) { tr.changed(parseKey(tr.t, w[1])) },
		"revision": func(w []string, a args) { tr.view.rev[object.ID(w[1])] = tr.number(a, "rv", 0) },
		// The edge's store and outbox.
		"holds": func(w []string, a args) {
			tr.rows[parseKey(tr.t, w[1])] = object.Version{UID: a["uid"], RV: tr.number(a, "rv", 0)}
		},
		"queue": func(w []string, a args) {
			id := tr.number(a, "id", 0)
			tr.keys[id] = parseKey(tr.t, w[1])
			tr.edge.Queued(Head{ID: id, Key: tr.keys[id], Priority: int(tr.number(a, "priority", 0))})
		},
		"gone": func(_ []string, a args) { id := tr.number(a, "id", 0); delete(tr.keys, id); tr.edge.Gone(id) },
		// Both ends and time.
		"connect": func(_ []string, a args) { tr.connect(a) },
		"cut":     func([]string, args) { tr.up, tr.down, tr.commits = nil, nil, nil },
		"deliver": func(w []string, _ args) { tr.deliver(w[1:]) },
		"commit":  func([]string, args) { tr.commit() },
		"poll":    func(w []string, _ args) { tr.poll(w[1:]) },
		"run":     func([]string, args) { tr.run() },
		"stats":   func([]string, args) { tr.say("hub: %+v", tr.hub.Stats()) },
		"answer":  func(_ []string, a args) { tr.answer(a) },
		"server":  func(_ []string, a args) { tr.hubDid(tr.hub.RevisionChecked(tr.number(a, "rv", 0))) },
		// A frame made by hand, in protobuf's text format, or in hex after "raw".
		"hub<":  func([]string, args) { tr.hubReceives(tr.frame(strings.TrimPrefix(line, "hub< "))) },
		"edge<": func([]string, args) { tr.edgeReceives(tr.frame(strings.TrimPrefix(line, "edge< "))) },
	}[words[0]]
	if run == nil {
		tr.t.Fatalf("%q: no such command", line)
	}
	run(words, parseArgs(words[1:]))
}

func (tr *trace) frame(text string) *wire.Frame {
	if raw, ok := strings.CutPrefix(text, "raw "); ok {
		b, err := hex.DecodeString(raw)
		if err != nil {
			tr.t.Fatal(err)
		}
		f, err := wire.Parse(b)
		if err != nil {
			tr.t.Fatal(err)
		}
		return f
	}
	f := &wire.Frame{}
	if err := prototext.Unmarshal([]byte(text), f); err != nil {
		tr.t.Fatalf("%s: %v", text, err)
	}
	return f
}

func (tr *trace) connect(a args) {
	tr.up, tr.down, tr.commits = nil, nil, nil
	tr.hub = NewHub(HubConfig{Node: "edge", Session: "s1", Epoch: "e1", Features: tr.list(a, "hubfeatures"),
		Window: int(tr.number(a, "window", 0)), BatchBytes: int(tr.number(a, "batch", 0))}, tr.view, tr.now)
	held := Held{Digests: map[object.ID]object.Digest{}, NodeUID: tr.rows[nodeKey].UID, Epoch: a["epoch"]}
	for k, v := range tr.rows {
		d := held.Digests[k.Kind]
		d.Add(k, v)
		held.Digests[k.Kind] = d
	}
	kinds := tr.view.Kinds()
	if a["edgekinds"] != "" {
		kinds = nil
		for _, id := range tr.list(a, "edgekinds") {
			kinds = append(kinds, object.ID(id))
		}
	}
	tr.edge = NewEdge(EdgeConfig{Node: "edge", Software: "v1", Store: "db1", Kinds: kinds, Features: tr.list(a, "edgefeatures"),
		WriteWindow: int(tr.number(a, "writes", 0))}, held)
	tr.edgeDid(tr.edge.Start(tr.now))
	for id, k := range tr.keys {
		tr.edge.Queued(Head{ID: id, Key: k})
	}
}

// deliver brings frames to the other end: all, those of one direction, or so many of them.
func (tr *trace) deliver(words []string) bool {
	a := parseArgs(words)
	n := int(tr.number(a, "n", 1<<30))
	_, onlyUp := a["up"]
	_, onlyDown := a["down"]
	any := false
	for ; n > 0 && len(tr.up) > 0 && !onlyDown; n-- {
		any = true
		tr.hubReceives(tr.pop(&tr.up))
	}
	for ; n > 0 && len(tr.down) > 0 && !onlyUp; n-- {
		any = true
		tr.edgeReceives(tr.pop(&tr.down))
	}
	return any
}

func (tr *trace) pop(q *[][]byte) *wire.Frame {
	f, err := wire.Parse((*q)[0])
	if err != nil {
		tr.t.Fatal(err)
	}
	*q = (*q)[1:]
	return f
}

func (tr *trace) hubReceives(f *wire.Frame) {
	effects, err := tr.hub.Receive(tr.now, f)
	tr.failed("hub", err)
	tr.hubDid(effects)
}

func (tr *trace) edgeReceives(f *wire.Frame) {
	effects, err := tr.edge.Receive(tr.now, f)
	tr.failed("edge", err)
	tr.edgeDid(effects)
}

func (tr *trace) failed(who string, err error) {
	switch {
	case errors.Is(err, ErrProtocol):
		tr.say("%s: PROTOCOL ERROR %v", who, err)
	case err != nil:
		tr.t.Fatalf("%s: %v is not an ErrProtocol", who, err)
	}
}

// commit finishes all batches that the edge has received.
func (tr *trace) commit() bool {
	any := false
	for len(tr.commits) > 0 {
		any = true
		e := tr.commits[0]
		tr.commits = tr.commits[1:]
		switch e := e.(type) {
		case ApplyBatch:
			for _, it := range e.Batch.Items {
				k := object.Key{Kind: object.ID(it.Kind), Namespace: it.Namespace, Name: it.Name}
				if it.Cause != 0 {
					delete(tr.rows, k)
				} else {
					tr.rows[k] = object.Version{UID: it.Uid, RV: it.ResourceVersion}
				}
			}
			tr.edgeDid(tr.edge.Applied(e.Batch.Seq))
		case MarkSynced:
			tr.say("edge: synced %v restored=%v", e.Kinds, e.Restored)
		}
	}
	return any
}

// poll asks both ends, after a step of time if one is given.
func (tr *trace) poll(words []string) {
	for _, w := range words {
		d, err := time.ParseDuration(w)
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.now = tr.now.Add(d)
	}
	effects, next := tr.hub.Poll(tr.now)
	tr.hubDid(effects)
	tr.say("hub: next poll in %s", next.Sub(tr.now))
	effects, next = tr.edge.Poll(tr.now, Vitals{LeaseAge: 7 * time.Second, Dropped: []uint64{0, 3}})
	tr.edgeDid(effects)
	tr.say("edge: next poll in %s", next.Sub(tr.now))
}

// run lets both ends work until neither has anything to do at this time.
func (tr *trace) run() {
	for range 1000 {
		before := tr.out.Len()
		effects, next := tr.hub.Poll(tr.now)
		tr.hubDid(effects)
		again := !next.After(tr.now)
		effects, _ = tr.edge.Poll(tr.now, Vitals{LeaseAge: 7 * time.Second})
		tr.edgeDid(effects)
		moved := tr.deliver(nil)
		done := tr.commit()
		if !moved && !done && !again && tr.out.Len() == before {
			return
		}
	}
	tr.t.Fatalf("the ends do not come to rest:\n%s", tr.out.String())
}

func (tr *trace) answer(a args) {
	id := tr.number(a, "id", 0)
	w := tr.writes[id]
	if w == nil {
		tr.t.Fatalf("the hub has no write %d under way", id)
	}
	delete(tr.writes, id)
	_, final := a["final"]
	tr.hubDid(tr.hub.Written(w, &wire.Result{Code: int32(tr.number(a, "code", 0)), Final: final,
		RetryAfterMs: int64(tr.number(a, "retry", 0)), Reason: a["reason"]}))
}
