package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// state is what the root page answers, as JSON.
type state struct {
	Hostname string    `json:"hostname"`
	PodName  string    `json:"podName,omitempty"` // environment POD_NAME, from the downward API
	NodeName string    `json:"nodeName,omitempty"`
	IPs      []string  `json:"ips"` // the addresses of the pod, without loopback and link-local ones
	Message  string    `json:"message"`
	Started  time.Time `json:"started"`  // of this process: another value means a restart
	Requests int64     `json:"requests"` // answered by this process so far, this one included
}

// server answers with what the process can see of its container.
type server struct {
	messageFile string
	started     time.Time
	requests    atomic.Int64
}

// serve listens until SIGTERM or SIGINT and then lets requests under way finish.
func serve(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	addr := flags.String("addr", ":8080", "address to listen on")
	messageFile := flags.String("message-file", "/etc/demo/message", "file whose content is shown, read at each request")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	s := &server{messageFile: *messageFile, started: time.Now()}
	httpServer := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintf(out, "demo: serving on %s, started %s\n", listener.Addr(), s.started.UTC().Format(time.RFC3339Nano))

	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := httpServer.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("serve: shut down: %w", err)
	}
	return nil
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.root)
	mux.HandleFunc("GET /env", env)
	mux.HandleFunc("GET /files", files)
	mux.HandleFunc("GET /zeros/{bytes}", serveZeros)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func (s *server) root(w http.ResponseWriter, _ *http.Request) {
	hostname, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	message, err := os.ReadFile(s.messageFile)
	if err != nil {
		message = fmt.Appendf(nil, "(no message: %v)", err)
	}
	w.Header().Set("Content-Type", "application/json")
	// An error here means that the client went away; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(state{
		Hostname: hostname,
		PodName:  os.Getenv("POD_NAME"),
		NodeName: os.Getenv("NODE_NAME"),
		IPs:      addresses(),
		Message:  strings.TrimSpace(string(message)),
		Started:  s.started,
		Requests: s.requests.Add(1),
	})
}

// env answers the environment, one NAME=value a line, sorted.
func env(w http.ResponseWriter, _ *http.Request) {
	lines := os.Environ()
	slices.Sort(lines)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// files answers the content of the file ?path, or the names in it if it is a directory.
func files(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Query().Get("path")
	info, err := os.Stat(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if !info.IsDir() {
		http.ServeFile(w, r, path)
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for _, entry := range entries {
		fmt.Fprintln(w, entry.Name())
	}
}

// addresses lists the addresses by which others reach the pod.
func addresses() []string {
	found := []string{}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return found
	}
	for _, addr := range all {
		network, ok := addr.(*net.IPNet)
		if ok && !network.IP.IsLoopback() && !network.IP.IsLinkLocalUnicast() {
			found = append(found, network.IP.String())
		}
	}
	return found
}

// serveZeros answers with a number of bytes, for measurements.
func serveZeros(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.PathValue("bytes"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, fmt.Sprintf("expected a number of bytes, found %q", r.PathValue("bytes")), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	_ = zeros([]string{r.PathValue("bytes")}, w) // whoever asked may be gone
}
