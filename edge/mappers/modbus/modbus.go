// Package modbus is the driver of Modbus devices, over TCP or a serial line (RTU), with the configuration of KubeEdge's mapper.
// The mapper of that name uses it. Devices that share a line or an address take turns on one connection.
package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"

	lib "github.com/simonvetter/modbus"

	"github.com/tether-edge/tether/common/mapper"
)

// Modbus has the connections. Make it with New.
type Modbus struct {
	mu    sync.Mutex // guards buses and their users
	buses map[string]*bus
}

// New returns one without connections.
func New() *Modbus { return &Modbus{buses: map[string]*bus{}} }

// bus is one line or one server.
type bus struct {
	users  int
	line   string        // its settings
	turn   chan struct{} // holds one while somebody speaks, who owns:
	client *lib.ModbusClient
	open   bool
}

// station is one device on a bus.
type station struct {
	of     *Modbus
	bus    *bus
	target target
}

// Open reaches the bus of a device. Whether the device is on it is seen when it is read.
func (m *Modbus) Open(ctx context.Context, d mapper.Device) (mapper.Driver, error) {
	t, err := parseConfig(d.Config)
	if err != nil {
		return nil, err
	}
	t.Logger = log.New(io.Discard, "", 0) // what it would say comes as an error too
	m.mu.Lock()
	b := m.buses[t.URL]
	if b == nil {
		client, err := lib.NewClient(&t.ClientConfiguration)
		if err != nil {
			m.mu.Unlock()
			return nil, err
		}
		b = &bus{turn: make(chan struct{}, 1), client: client, line: t.settings()}
		m.buses[t.URL] = b
	} else if b.line != t.settings() {
		m.mu.Unlock()
		return nil, fmt.Errorf("%s: expected the settings of the other devices on it, %s, found %s", t.URL, b.line, t.settings())
	}
	b.users++
	m.mu.Unlock()
	s := &station{of: m, bus: b, target: t}
	if err := s.speak(ctx, func(*lib.ModbusClient) error { return nil }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close leaves the bus, which is closed with the last station.
func (s *station) Close() error {
	s.of.mu.Lock()
	s.bus.users--
	last := s.bus.users == 0
	if last {
		delete(s.of.buses, s.target.URL)
	}
	s.of.mu.Unlock()
	if !last {
		return nil
	}
	s.bus.turn <- struct{}{} // a request that nobody waits for any more may be under way
	defer func() { <-s.bus.turn }()
	return s.bus.shut()
}

func (b *bus) shut() error {
	if !b.open {
		return nil
	}
	b.open = false
	return b.client.Close()
}

// speak has the bus for itself while f runs. After a failure the connection is made anew, for an answer that comes late is
// taken for that of the next request.
func (s *station) speak(ctx context.Context, f func(*lib.ModbusClient) error) error {
	select {
	case s.bus.turn <- struct{}{}:
		defer func() { <-s.bus.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a turn on %s: %w", s.target.URL, ctx.Err())
	}
	if !s.bus.open {
		if err := s.bus.client.Open(); err != nil {
			return fmt.Errorf("open %s: %w", s.target.URL, err)
		}
		s.bus.open = true
	}
	err := s.bus.client.SetUnitId(s.target.unit)
	if err == nil {
		err = f(s.bus.client)
	}
	if err == nil {
		return nil
	}
	for _, refusal := range []error{lib.ErrIllegalFunction, lib.ErrIllegalDataAddress, lib.ErrIllegalDataValue} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%w: %w", mapper.ErrProperty, err)
		}
	}
	return errors.Join(fmt.Errorf("slave %d: %w", s.target.unit, err), s.bus.shut())
}

// Read reads the property's registers.
func (s *station) Read(ctx context.Context, p mapper.Property) (string, error) {
	at, err := parseVisitor(p)
	if err != nil {
		return "", fmt.Errorf("%w: %w", mapper.ErrProperty, err)
	}
	kind := strings.ToUpper(p.Type)
	var data []byte
	if err := s.speak(ctx, func(c *lib.ModbusClient) (err error) {
		data, err = at.read(c)
		return err
	}); err != nil {
		return "", err
	}
	text, err := at.decode(data, kind)
	if err != nil {
		return "", fmt.Errorf("%w: %w", mapper.ErrProperty, err)
	}
	return text, nil
}

// read returns the bytes of the registers; a coil is a register that is 0 or 1.
func (at place) read(c *lib.ModbusClient) ([]byte, error) {
	bit := func(on bool, err error) ([]byte, error) {
		if on {
			return []byte{0, 1}, err
		}
		return []byte{0, 0}, err
	}
	switch at.kind {
	case coil:
		return bit(c.ReadCoil(at.offset))
	case discrete:
		return bit(c.ReadDiscreteInput(at.offset))
	case input:
		return c.ReadRawBytes(at.offset, 2*at.count, lib.INPUT_REGISTER)
	}
	return c.ReadRawBytes(at.offset, 2*at.count, lib.HOLDING_REGISTER)
}

// Write writes the property's registers: one by function 6, several at once by 16, a coil by 5.
func (s *station) Write(ctx context.Context, p mapper.Property, value string) error {
	at, err := parseVisitor(p)
	if err == nil && at.kind != coil && at.kind != holding {
		err = errors.New("register: expected CoilRegister or HoldingRegister, since others cannot be written")
	}
	var data []byte
	if err == nil {
		data, err = at.encode(value, strings.ToUpper(p.Type))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", mapper.ErrProperty, err)
	}
	return s.speak(ctx, func(c *lib.ModbusClient) error {
		switch {
		case at.kind == coil:
			return c.WriteCoil(at.offset, data[0]|data[1] != 0)
		case at.count == 1:
			return c.WriteRegister(at.offset, uint16(data[0])<<8|uint16(data[1]))
		}
		return c.WriteRawBytes(at.offset, data)
	})
}
