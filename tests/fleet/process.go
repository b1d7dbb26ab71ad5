package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/edge/link"
)

// Process says how to run a fleet in a process of its own.
type Process struct {
	// Socket is the Unix socket at which it is steered, PKI the directory of the edges' authority.
	Socket, PKI string
	Config
}

// Args are the arguments that make Serve run it.
func (p Process) Args() []string {
	args := []string{"--socket", p.Socket, "--pki", p.PKI, "--host", p.Host, "--protocol", string(p.Protocol), "--prefix", p.Prefix, "--first", strconv.Itoa(p.First),
		"--ping", p.PingInterval.String()}
	for _, s := range p.Servers {
		args = append(args, "--server", s.WebSocket+","+s.QUIC)
	}
	return args
}

// Serve is the main function of such a process. It returns nil once ctx is done and all edges have ended.
func Serve(ctx context.Context, args []string) error {
	var p Process
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.Func("server", "a hub, as HOST:PORT of WebSocket, a comma and HOST:PORT of QUIC (repeatable)", func(text string) error {
		webSocket, quic, found := strings.Cut(text, ",")
		if !found {
			return fmt.Errorf("expected two addresses and a comma, found %q", text)
		}
		p.Servers = append(p.Servers, link.Server{WebSocket: webSocket, QUIC: quic})
		return nil
	})
	flags.StringVar(&p.Host, "host", pki.ServerName, "the name in the hubs' certificates")
	protocol := flags.String("protocol", string(transport.WebSocket), "what carries the links")
	flags.StringVar(&p.Socket, "socket", "", "Unix socket to be steered at")
	flags.StringVar(&p.PKI, "pki", "", "directory of the edges' authority")
	flags.StringVar(&p.Prefix, "prefix", "", "beginning of the nodes' names")
	flags.IntVar(&p.First, "first", 0, "number of the first node")
	flags.DurationVar(&p.PingInterval, "ping", 0, "how often each edge pings")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p.Protocol = transport.Protocol(*protocol)
	ca, err := pki.LoadCA(p.PKI, time.Now)
	if err != nil {
		return err
	}
	f, err := New(p.Config, Deps{CA: ca, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Now: time.Now})
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", p.Socket)
	if err != nil {
		return fmt.Errorf("steer the fleet: %w", err)
	}
	web := &http.Server{Handler: f.Handler(ctx), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	err = web.Serve(listener)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		f.Wait()
		return nil
	}
	return fmt.Errorf("steer the fleet: %w", err)
}
