package fleet

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Grown is the answer to a request to grow.
type Grown struct {
	// Took is what Grow returned, in nanoseconds.
	Took time.Duration `json:"took"`
	Status
}

// Handler lets another process steer the fleet: GET /status answers with Status, POST /grow?edges=N with Grown once
// all N edges are there. The edges live until ctx ends, whatever becomes of the request.
func (f *Fleet) Handler(ctx context.Context) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.Status()) })
	mux.HandleFunc("POST /grow", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("edges"))
		if err != nil || n < 0 {
			http.Error(w, "expected edges=N, found "+strconv.Quote(r.URL.RawQuery), http.StatusBadRequest)
			return
		}
		took, err := f.Grow(ctx, n)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer(w, Grown{Took: took, Status: f.Status()})
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(v)
}
