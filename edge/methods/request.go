package methods

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	common "github.com/tether-edge/tether/common/device"
)

// what a path asks for.
type what string

const (
	list   what = "list"
	device what = "device"
	method what = "method"
)

// A route is a path taken apart.
type route struct {
	what                    what
	namespace, name, method string
}

const prefix = "/v1/devices"

// parsePath takes an escaped path apart. It reports false for one that nothing is at: names that no object of Kubernetes can
// have are not there.
func parsePath(escaped string) (route, bool) {
	rest, ok := strings.CutPrefix(escaped, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return route{}, false
	}
	if rest == "" || rest == "/" {
		return route{what: list}, true
	}
	parts := strings.Split(rest[1:], "/")
	for i, p := range parts {
		text, err := url.PathUnescape(p)
		if err != nil || text == "" {
			return route{}, false
		}
		parts[i] = text
	}
	if len(parts) != 2 && (len(parts) != 4 || parts[2] != "methods") {
		return route{}, false
	}
	r := route{what: device, namespace: parts[0], name: parts[1]}
	if len(validation.ValidateNamespaceName(r.namespace, false))+len(utilvalidation.IsDNS1123Subdomain(r.name)) > 0 {
		return route{}, false
	}
	if len(parts) == 4 {
		r.what, r.method = method, parts[3]
	}
	return r, true
}

// maxBody bounds the body of a request, in bytes: what a device may desire takes 64 KiB.
const maxBody = 256 << 10

// A literal is a value as the body has it: a text, or a number, true or false as it is written.
type literal struct {
	text string
	kind kind
}

type kind string

const (
	text    kind = "text"
	number  kind = "a number"
	boolean kind = "true or false"
)

// parseBody reads {property: value}. The error says where it is none.
func parseBody(body []byte) (map[string]literal, error) {
	if err := common.CheckJSON(body); err != nil {
		return nil, fmt.Errorf("a JSON object {property: value}: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	opening, err := d.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if opening != json.Delim('{') {
		return nil, errors.New("expected a JSON object {property: value}, found something else")
	}
	values := map[string]literal{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name := key.(string) // the decoder lets nothing else through there
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("property %s: expected it once, found it again", quoted(name))
		}
		if len(values) == v1beta1.MaxProperties {
			return nil, fmt.Errorf("expected at most %d properties, found more", v1beta1.MaxProperties)
		}
		value, err := d.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		switch v := value.(type) {
		case string:
			values[name] = literal{v, text}
		case json.Number:
			values[name] = literal{v.String(), number}
		case bool:
			values[name] = literal{strconv.FormatBool(v), boolean}
		default:
			return nil, fmt.Errorf("property %s: expected a text, a number, true or false, found an object, a list or null", quoted(name))
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, notJSON(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("expected one JSON object, found more behind it")
	}
	return values, nil
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("expected a JSON object {property: value}: %w", err)
}

// quoted shows what a client sent, and not much of it.
func quoted(s string) string { return fmt.Sprintf("%.80q", s) }

// timeout reads the query of a call, which is timeout alone: a number with a unit, or of seconds.
func (c *Config) timeout(query string) (time.Duration, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0, fmt.Errorf("query: expected timeout=30s or nothing: %w", err)
	}
	for name, all := range values {
		if name != "timeout" || len(all) != 1 {
			return 0, fmt.Errorf("query: expected timeout, once, found %s", quoted(name))
		}
	}
	said := values.Get("timeout")
	if said == "" {
		return c.Timeout, nil
	}
	if _, err := strconv.ParseUint(said, 10, 32); err == nil {
		said += "s"
	}
	d, err := time.ParseDuration(said)
	if err != nil || d < c.MinTimeout || d > c.MaxTimeout {
		return 0, fmt.Errorf("timeout: expected %v to %v, such as 30s, found %s", c.MinTimeout, c.MaxTimeout, quoted(values.Get("timeout")))
	}
	return d, nil
}

// maxKey bounds an Idempotency-Key, in bytes.
const maxKey = 255

// parseKey reads the Idempotency-Key headers of a request; empty for none.
func parseKey(headers []string) (string, error) {
	if len(headers) == 0 {
		return "", nil
	}
	key := headers[0]
	strange := func(r rune) bool { return r < ' ' || r > '~' }
	if len(headers) > 1 || key == "" || len(key) > maxKey || strings.ContainsFunc(key, strange) {
		return "", fmt.Errorf("Idempotency-Key: expected it once, 1 to %d visible characters of ASCII", maxKey)
	}
	return key, nil
}

// faults collects what is wrong with a call, sorted when it is read.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// maxFaults is how many are said.
const maxFaults = 20

func (f faults) said() []string {
	slices.Sort(f)
	if more := len(f) - maxFaults; more > 0 {
		return append(slices.Clone(f[:maxFaults]), fmt.Sprintf("and %d more", more))
	}
	return f
}
