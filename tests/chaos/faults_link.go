package chaos

import (
	"time"

	"github.com/tether-edge/tether/tests/netem"
)

// hole swallows every frame.
var hole = netem.Settings{Loss: 1}

func linkFaults() []Fault {
	const goesOn = "The site runs on; what changed on either side meanwhile is there seconds after the link is."
	const slow = "Everything still gets through, later; a link that was up stays up or comes back by itself."
	standing := func(name, what, promise string, least, most time.Duration, t trouble) Fault {
		return Fault{Name: name, Class: Link, What: what, Promise: promise, Least: least, Most: most,
			begin: func(f *fault) (func() error, error) { return f.w.cable.worsen(t) }}
	}
	return []Fault{
		standing("cut-seconds", "The cable is out for seconds.", goesOn, 2*time.Second, 15*time.Second, trouble{out: true}),
		standing("cut-minute", "The cable is out for longer than the node controller's grace: the cloud marks the node and its pods.", goesOn, 60*time.Second, 80*time.Second, trouble{out: true}),
		{Name: "flapping", Class: Link, What: "The cable goes out and in every 2 s.", Promise: goesOn, Least: 10 * time.Second, Most: 30 * time.Second, begin: flap},
		standing("lost-up", "What the edge sends is swallowed; what the cloud sends arrives.", goesOn, 20*time.Second, 40*time.Second, trouble{up: hole}),
		standing("lost-down", "What the cloud sends is swallowed; what the edge sends arrives.", goesOn, 20*time.Second, 40*time.Second, trouble{down: hole}),
		{Name: "half-open", Class: Link, What: "All packets are swallowed and CloudCore is killed meanwhile: the edge's connection is half open, and no end is told.",
			Promise: goesOn, Least: 10 * time.Second, Most: 30 * time.Second, Alone: true, begin: halfOpen},
		standing("narrow", "The cable carries 64 kbit/s.", slow, 15*time.Second, 30*time.Second, trouble{up: netem.Settings{Rate: 8000}, down: netem.Settings{Rate: 8000}}),
		standing("far", "A round trip takes 800 ms.", slow, 15*time.Second, 30*time.Second, trouble{up: netem.Settings{Delay: 400 * time.Millisecond}, down: netem.Settings{Delay: 400 * time.Millisecond}}),
		standing("lossy", "A tenth of all packets is lost.", slow, 15*time.Second, 30*time.Second, trouble{up: netem.Settings{Loss: 0.1}, down: netem.Settings{Loss: 0.1}}),
		standing("no-udp", "UDP alone is dropped, as by many a firewall.", slow, 15*time.Second, 40*time.Second, trouble{up: netem.Settings{NoUDP: true}, down: netem.Settings{NoUDP: true}}),
	}
}

func flap(f *fault) (func() error, error) {
	out := false
	var better func() error
	turn := func() (err error) {
		if out = !out; out {
			better, err = f.w.cable.worsen(trouble{out: true})
			return err
		}
		return better()
	}
	ended := make(chan error, 1)
	go func() { ended <- f.repeat(2*time.Second, turn) }()
	return func() error {
		if err := <-ended; err != nil {
			return err
		}
		if out {
			return better()
		}
		return nil
	}, nil
}

func halfOpen(f *fault) (func() error, error) {
	c := f.w.holder(f.ctx)
	better, err := f.w.cable.worsen(trouble{up: hole, down: hole})
	if err != nil {
		return nil, err
	}
	if err := c.Kill(); err != nil {
		return nil, err
	}
	return func() error {
		if err := c.Restart(); err != nil {
			return err
		}
		return better()
	}, nil
}
