package mqtt

import (
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A client that comes in while the listener closes is waited for: what ends it works with what is gone after the broker.
func TestAClientThatComesWhileItClosesIsWaitedFor(t *testing.T) {
	for range 200 {
		cfg := Default("edge-1")
		door := newGate(cfg.Broker.Limits, newMetrics(prometheus.NewRegistry()))
		l := &listener{id: "plain", addr: "127.0.0.1:0", gate: door, over: func(*conn) {}, log: quietLog()}
		if err := l.Init(nil); err != nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		clients.Go(func() { l.Serve(func(string, net.Conn) error { return nil }) })
		for range 4 {
			clients.Go(func() {
				if c, err := net.Dial("tcp", l.Address()); err == nil {
					_ = c.Close()
				}
			})
		}
		l.Close(func(string) {})
		clients.Wait()
	}
}
