package modbus

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	lib "github.com/simonvetter/modbus"

	"github.com/tether-edge/tether/common/mapper"
)

// number is a JSON number, or one in a text: manifests have both. Absent, null and the empty text are none.
type number struct {
	value float64
	said  bool
}

// UnmarshalJSON reads it.
func (n *number) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("expected a number, found %s", data)
	}
	*n = number{value: f, said: true}
	return nil
}

// whole returns n if it is a whole number from least to most, fallback if it is none.
func (n number) whole(what string, fallback, least, most int) (int, error) {
	if !n.said {
		return fallback, nil
	}
	if whole := int(n.value); n.value != float64(whole) || whole < least || whole > most {
		return 0, fmt.Errorf("%s: expected a whole number from %d to %d, found %v", what, least, most, n.value)
	}
	return int(n.value), nil
}

// orDefault is whole for what 0 can never be: tools write it for what is not set.
func (n number) orDefault(what string, fallback, least, most int) (int, error) {
	if n.value == 0 {
		return fallback, nil
	}
	return n.whole(what, fallback, least, most)
}

type tcp struct {
	IP   string `json:"ip"`
	Port number `json:"port"`
}

type serial struct {
	SerialPort string `json:"serialPort"`
	SerialName string `json:"serialName"`
	BaudRate   number `json:"baudRate"`
	DataBits   number `json:"dataBits"`
	Parity     string `json:"parity"`
	StopBits   number `json:"stopBits"`
}

// config is a device's protocol.configData. KubeEdge's manifests have the parts of a connection directly, or within tcp and com.
type config struct {
	CommunicateType string `json:"communicateType"`
	tcp
	serial
	SlaveID number `json:"slaveID"`
	Timeout number `json:"timeout"` // ms
	TCP     tcp    `json:"tcp"`
	COM     serial `json:"com"`
}

// A target is where a device is.
type target struct {
	lib.ClientConfiguration
	unit uint8
}

// parseConfig reads a device's configuration.
func parseConfig(data mapper.Config) (t target, err error) {
	var c config
	if err := json.Unmarshal(append([]byte{}, data...), &c); err != nil {
		return t, fmt.Errorf("configData of the protocol: %w", err)
	}
	if c.TCP.IP != "" {
		c.tcp = c.TCP
	}
	if c.COM.SerialPort != "" || c.COM.SerialName != "" {
		c.serial = c.COM
	}
	if c.SerialPort == "" {
		c.SerialPort = c.SerialName
	}
	unit, err := c.SlaveID.whole("slaveID", 1, 1, 247)
	if err != nil {
		return t, err
	}
	timeout, err := c.Timeout.orDefault("timeout", 1000, 1, 60_000)
	if err != nil {
		return t, err
	}
	t.unit, t.Timeout = uint8(unit), time.Duration(timeout)*time.Millisecond
	kind := strings.ToLower(c.CommunicateType)
	if kind == "" && c.SerialPort != "" {
		kind = "rtu"
	}
	switch kind {
	case "", "tcp":
		if c.IP == "" {
			return t, fmt.Errorf("ip: expected an address, found none")
		}
		port, err := c.Port.orDefault("port", 502, 1, 65535)
		t.URL = "tcp://" + net.JoinHostPort(c.IP, strconv.Itoa(port))
		return t, err
	case "rtu", "serial", "com":
		return t, t.line(c.serial)
	}
	return t, fmt.Errorf("communicateType: expected tcp or rtu, found %q", c.CommunicateType)
}

// line sets what a serial line needs.
func (t *target) line(s serial) error {
	if !strings.HasPrefix(s.SerialPort, "/") {
		return fmt.Errorf("serialPort: expected the path of a device, found %q", s.SerialPort)
	}
	t.URL = "rtu://" + s.SerialPort
	speed, err := s.BaudRate.orDefault("baudRate", 19200, 1, 4_000_000)
	if err != nil {
		return err
	}
	bits, err := s.DataBits.orDefault("dataBits", 8, 5, 8)
	if err != nil {
		return err
	}
	switch strings.ToLower(s.Parity) {
	case "", "none", "n":
		t.Parity = lib.PARITY_NONE
	case "even", "e":
		t.Parity = lib.PARITY_EVEN
	case "odd", "o":
		t.Parity = lib.PARITY_ODD
	default:
		return fmt.Errorf("parity: expected none, even or odd, found %q", s.Parity)
	}
	// Without parity a character has a second stop bit in its place, says the standard.
	fallback := 1
	if t.Parity == lib.PARITY_NONE {
		fallback = 2
	}
	stop, err := s.StopBits.orDefault("stopBits", fallback, 1, 2)
	t.Speed, t.DataBits, t.StopBits = uint(speed), uint(bits), uint(stop)
	return err
}

// settings are those that all devices on a serial line must have in common; empty for TCP.
func (t *target) settings() string {
	if t.Speed == 0 {
		return ""
	}
	parity := map[uint]string{lib.PARITY_NONE: "N", lib.PARITY_EVEN: "E", lib.PARITY_ODD: "O"}[t.Parity]
	return fmt.Sprintf("%d baud %d%s%d", t.Speed, t.DataBits, parity, t.StopBits)
}

// visitor is a property's visitors.configData.
type visitor struct {
	Register       string  `json:"register"`
	Offset         number  `json:"offset"`
	Limit          number  `json:"limit"` // registers
	Scale          float64 `json:"scale"`
	IsSwap         bool    `json:"isSwap"`
	IsRegisterSwap bool    `json:"isRegisterSwap"`
	// DataType is what the registers hold, where that is not as the property's type and limit say.
	DataType string `json:"dataType"`
}

// Kinds of registers.
const (
	coil = iota
	discrete
	input
	holding
)

var registers = map[string]int{"coilregister": coil, "discreteinputregister": discrete, "inputregister": input, "holdingregister": holding}

// A place is where a property is and how its value is written there.
type place struct {
	kind   int
	offset uint16
	count  uint16 // registers
	data   string // one of sizes, or text
	scale  float64
	swap   bool // the bytes of each register
	order  bool // the registers: the last first
}

// sizes has the registers of each number.
var sizes = map[string]int{"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4}

// parseVisitor reads where a property is.
func parseVisitor(p mapper.Property) (at place, err error) {
	var v visitor
	if err := p.Config.Into(&v); err != nil {
		return at, fmt.Errorf("visitors.configData: %w", err)
	}
	kind, ok := registers[strings.ToLower(v.Register)]
	if !ok {
		return at, fmt.Errorf("register: expected CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister, found %q", v.Register)
	}
	offset, err := v.Offset.whole("offset", 0, 0, 65535)
	if err != nil {
		return at, err
	}
	limit, err := v.Limit.whole("limit", 0, 0, 123)
	if err != nil {
		return at, err
	}
	at = place{kind: kind, offset: uint16(offset), scale: v.Scale, swap: v.IsSwap, order: v.IsRegisterSwap, data: strings.ToLower(v.DataType)}
	if at.scale == 0 {
		at.scale = 1
	}
	if kind == coil || kind == discrete {
		at.count, at.data, at.scale, at.swap, at.order = 1, "uint16", 1, false, false
		return at, nil
	}
	return at, at.size(strings.ToUpper(p.Type), limit)
}

// size finds what is in the registers: dataType says, or else the property's type and the number of registers.
func (at *place) size(kind string, limit int) error {
	switch at.data {
	case "", "int", "float", "double", "boolean", "string", "bytes": // KubeEdge's words for the property's type
		if at.data != "" {
			kind = strings.ToUpper(at.data)
		}
		at.data = guess(kind, limit)
	case "text":
	default:
		if sizes[at.data] == 0 {
			return fmt.Errorf("dataType: expected int16, uint16, int32, uint32, float32, int64, uint64, float64 or text, found %q", at.data)
		}
	}
	if at.data == "text" {
		at.count = uint16(max(limit, 1))
	} else {
		at.count = uint16(sizes[at.data])
	}
	if limit != 0 && limit != int(at.count) {
		return fmt.Errorf("limit: expected %d registers for %s, found %d", at.count, at.data, limit)
	}
	if int(at.offset)+int(at.count) > 65536 {
		return fmt.Errorf("offset: expected %d registers up to 65535, found %d", at.count, at.offset)
	}
	return nil
}

// guess says what registers hold of a property: KubeEdge's mapper reads whole numbers without a sign, so a sign takes a dataType.
func guess(kind string, limit int) string {
	switch kind {
	case "STRING", "BYTES":
		return "text"
	case "FLOAT", "DOUBLE":
		if limit == 0 && kind == "DOUBLE" || limit == 4 {
			return "float64"
		}
		if limit != 1 {
			return "float32"
		}
	}
	switch limit {
	case 2:
		return "uint32"
	case 4:
		return "uint64"
	}
	return "uint16"
}
