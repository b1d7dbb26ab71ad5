package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Grown is the answer to a request to grow.
type Grown struct {
	// Took is what Grow returned, in nanoseconds.
	Took time.Duration `json:"took"`
	Status
}

// Commits is the answer to a Question.
type Commits struct {
	// Missing are the edges that have not committed it; At is when the others did, by node, in nanoseconds since 1970.
	Missing int              `json:"missing"`
	At      map[string]int64 `json:"at"`
}

// Commits asks every edge.
func (f *Fleet) Commits(q Question) Commits {
	c := Commits{At: map[string]int64{}}
	for _, e := range f.all() {
		if at := e.store.commit(q); at.IsZero() {
			c.Missing++
		} else {
			c.At[e.name] = at.UnixNano()
		}
	}
	return c
}

// Handler lets another process steer the fleet, in JSON: GET /status answers with Status; POST /grow?edges=N with Grown once
// all N edges are there, which then live until ctx ends; POST /drop?edges=N with how many connections it ended; POST
// /stall?edges=N&for=D with the names of those that read nothing from now on; POST /beat?what=W&interval=D&for=D with how many reports edges made; GET /commits, a Question in its query, with Commits; GET
// /sessions and /counts with what Sessions and Counts return.
func (f *Fleet) Handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(context.Context, query) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			q := query{values: r.URL.Query()}
			v, err := do(r.Context(), q)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			// The client may be gone; there is nobody else to tell.
			_ = json.NewEncoder(w).Encode(v)
		})
	}
	handle("GET /status", func(context.Context, query) (any, error) { return f.Status(), nil })
	handle("GET /sessions", func(context.Context, query) (any, error) { return f.Sessions(), nil })
	handle("GET /counts", func(context.Context, query) (any, error) { return f.Counts(), nil })
	handle("POST /grow", func(_ context.Context, q query) (any, error) {
		n, err := q.number("edges")
		if err != nil {
			return nil, err
		}
		took, err := f.Grow(ctx, n)
		return Grown{Took: took, Status: f.Status()}, err
	})
	handle("POST /drop", func(_ context.Context, q query) (any, error) {
		n, err := q.number("edges")
		if err != nil {
			return nil, err
		}
		return f.Drop(n), nil
	})
	handle("POST /stall", func(_ context.Context, q query) (any, error) {
		n, err := q.number("edges")
		if err != nil {
			return nil, err
		}
		d, err := q.duration("for")
		return f.Stall(n, d), err
	})
	handle("POST /beat", func(ctx context.Context, q query) (any, error) {
		interval, err := q.duration("interval")
		if err != nil {
			return nil, err
		}
		d, err := q.duration("for")
		if err != nil {
			return nil, err
		}
		return f.Beat(ctx, q.values.Get("what"), interval, d)
	})
	handle("GET /commits", func(_ context.Context, q query) (any, error) {
		var question Question
		err := json.Unmarshal([]byte(q.values.Get("question")), &question)
		return f.Commits(question), err
	})
	return mux
}

// query is the query of a request.
type query struct{ values url.Values }

func (q query) number(name string) (int, error) {
	n, err := strconv.Atoi(q.values.Get(name))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: expected a number, found %q", name, q.values.Get(name))
	}
	return n, nil
}

func (q query) duration(name string) (time.Duration, error) {
	d, err := time.ParseDuration(q.values.Get(name))
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s: expected a duration, found %q", name, q.values.Get(name))
	}
	return d, nil
}
