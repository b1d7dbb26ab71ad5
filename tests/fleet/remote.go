package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Remote steers a fleet in another process: see Serve. Its methods do what the Fleet's do; their errors are the fleet's, or
// say that it cannot be asked.
type Remote struct{ client *http.Client }

// NewRemote returns the Remote of the process that listens at that Unix socket, whether it is there yet or not. The socket
// is a file, and so reaches into other networks and outlives their cables.
func NewRemote(socket string) *Remote {
	return &Remote{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
}

func (r *Remote) Status(ctx context.Context) (s Status, err error) {
	return s, r.ask(ctx, http.MethodGet, "/status", nil, &s)
}

func (r *Remote) Sessions(ctx context.Context) (all map[string]string, err error) {
	return all, r.ask(ctx, http.MethodGet, "/sessions", nil, &all)
}

func (r *Remote) Counts(ctx context.Context) (all map[string]int, err error) {
	return all, r.ask(ctx, http.MethodGet, "/counts", nil, &all)
}

func (r *Remote) Grow(ctx context.Context, n int) (g Grown, err error) {
	return g, r.ask(ctx, http.MethodPost, "/grow", url.Values{"edges": {strconv.Itoa(n)}}, &g)
}

func (r *Remote) Drop(ctx context.Context, n int) (dropped int, err error) {
	return dropped, r.ask(ctx, http.MethodPost, "/drop", url.Values{"edges": {strconv.Itoa(n)}}, &dropped)
}

func (r *Remote) Stall(ctx context.Context, n int, d time.Duration) (names []string, err error) {
	return names, r.ask(ctx, http.MethodPost, "/stall", url.Values{"edges": {strconv.Itoa(n)}, "for": {d.String()}}, &names)
}

func (r *Remote) Beat(ctx context.Context, what string, interval, d time.Duration) (n int, err error) {
	return n, r.ask(ctx, http.MethodPost, "/beat", url.Values{"what": {what}, "interval": {interval.String()}, "for": {d.String()}}, &n)
}

func (r *Remote) Commits(ctx context.Context, q Question) (c Commits, err error) {
	text, err := json.Marshal(q)
	if err != nil {
		return c, err
	}
	return c, r.ask(ctx, http.MethodGet, "/commits", url.Values{"question": {string(text)}}, &c)
}

func (r *Remote) ask(ctx context.Context, method, path string, values url.Values, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://fleet"+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the fleet: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("ask the fleet: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the fleet: %s: %s", response.Status, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("ask the fleet: %w", err)
	}
	return nil
}
