package methods

import (
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	common "github.com/tether-edge/tether/common/device"
	"github.com/tether-edge/tether/common/twin"
)

// An answer is the body of every answer but that of a GET that succeeds.
type answer struct {
	Code int `json:"code"`
	// Reasons say why it did not succeed.
	Reasons []string `json:"reasons,omitempty"`
	// Call names the call in what is desired, and Properties say what became of it, once something of it was stored.
	Call       string            `json:"call,omitempty"`
	Properties map[string]became `json:"properties,omitempty"`
}

// became is what became of what a call desires of a property.
type became struct {
	Desired string `json:"desired"`
	Result  result `json:"result"`
	// Reason says why it is refused or replaced.
	Reason string `json:"reason,omitempty"`
	// Reported is what the device has: read back where the result is done, else as it was reported last; nil for never.
	Reported *string `json:"reported"`
}

type result string

const (
	// wasDone: the mapper read it back from the device.
	wasDone result = "done"
	// isPending: the device has not reported it; nobody knows whether it was written.
	isPending result = "pending"
	// wasRefused: the mapper says that the device cannot have it, or does not have it though it was written.
	wasRefused result = "refused"
	// wasReplaced: something else is desired now.
	wasReplaced result = "replaced"
)

// handler is the Server as net/http sees it.
type handler struct{ *Server }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// Who sends slowly is not waited for; net/http too reads what is left of a body.
		_ = control.SetReadDeadline(time.Now().Add(h.cfg.Patience))
	}
	at, found := parsePath(r.URL.EscapedPath())
	label := string(at.what)
	if !found {
		label = "none"
	}
	defer func() {
		if fault := recover(); fault != nil {
			if fault == http.ErrAbortHandler {
				panic(fault)
			}
			h.m.panics.Inc()
			h.deps.Log.Error("a request met a fault of edgecore's own", "path", quoted(r.URL.Path), "fault", fault, "stack", string(debug.Stack()))
			h.turnAway(w, label, refuse(http.StatusInternalServerError, "a fault of the edge; its log says more"))
		}
	}()
	_ = control.SetWriteDeadline(time.Time{}) // the last answer's; all connections can
	if foreign := fromPage(r); foreign != nil {
		h.turnAway(w, label, foreign)
		return
	}
	user, no := h.login(w, r)
	if no == nil {
		no = h.admit(w, r, at, found, user)
	}
	if no != nil {
		h.turnAway(w, label, no)
		return
	}
	if at.what == method {
		_ = control.SetReadDeadline(time.Now().Add(h.cfg.Patience)) // anew: the password may have taken its time
		a, no := h.ask(r, at, user)
		if no != nil {
			h.turnAway(w, label, no)
			return
		}
		_ = control.SetReadDeadline(time.Time{}) // that a client goes is noticed by reading
		h.call(w, r, a)
		return
	}
	var d Device
	if at.what == device {
		var known bool
		if d, known = h.deps.Devices.Device(at.namespace, at.name); !known {
			h.turnAway(w, label, refuse(http.StatusNotFound, "this node has no device %s in namespace %s", quoted(at.name), quoted(at.namespace)))
			return
		}
	}
	h.m.requests.WithLabelValues(label, "200").Inc()
	w.Header().Set("Content-Type", "application/json")
	if at.what == device {
		h.write(w, h.show(d))
		return
	}
	h.list(w, user)
}

// turnAway refuses a request whose body may not have been read: the connection ends with it, else net/http would wait for the
// body before it answers.
func (h *handler) turnAway(w http.ResponseWriter, label string, r *refusal) {
	w.Header().Set("Connection", "close")
	h.refuse(w, label, r)
}

// fromPage refuses what a page in a browser of this machine asks for: it comes from loopback as everybody here, on behalf of a
// site that nobody here asked.
func fromPage(r *http.Request) *refusal {
	if r.Header.Get("Origin") != "" {
		return refuse(http.StatusForbidden, "expected no Origin: pages of a browser are not served")
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if r.TLS == nil && host != "localhost" && net.ParseIP(host) == nil {
		return refuse(http.StatusForbidden, "expected an address or localhost in Host, found %s: a name may be another's tomorrow", quoted(host))
	}
	return nil
}

// login returns who asks.
func (h *handler) login(w http.ResponseWriter, r *http.Request) (string, *refusal) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	name, password, _ := r.BasicAuth()
	user, ok, busy := h.deps.Users.Login(net.ParseIP(host).IsLoopback(), name, password)
	if busy {
		return "", refuse(http.StatusServiceUnavailable, "as many passwords wait to be checked as may: ask again")
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="devices", charset="UTF-8"`)
		return "", refuse(http.StatusUnauthorized, "expected the name and the password of a user of devices.mqtt.users")
	}
	return user, nil
}

// admit says what is wrong with a request before its body is read.
func (h *handler) admit(w http.ResponseWriter, r *http.Request, at route, found bool, user string) *refusal {
	if !found {
		return refuse(http.StatusNotFound, "expected %s, %s/NAMESPACE/NAME or %s/NAMESPACE/NAME/methods/METHOD", prefix, prefix, prefix)
	}
	allowed := http.MethodGet
	if at.what == method {
		allowed = http.MethodPost
	}
	if r.Method != allowed {
		w.Header().Set("Allow", allowed)
		return refuse(http.StatusMethodNotAllowed, "expected %s, found %s", allowed, quoted(r.Method))
	}
	switch {
	case at.what == method && !h.deps.Users.MayDesire(user, at.namespace, at.name):
		return refuse(http.StatusForbidden, "user %s may not publish twin/update of this device, so calls none of its methods", quoted(user))
	case at.what == device && !h.deps.Users.MayRead(user, at.namespace, at.name):
		return refuse(http.StatusForbidden, "user %s may not read twin/get/result of this device, so does not see it", quoted(user))
	}
	select {
	case <-h.deps.Devices.Ready():
	default:
		return refuse(http.StatusServiceUnavailable, "the edge is starting and does not know its devices yet: ask again")
	}
	return nil
}

// ask reads a call.
func (h *handler) ask(r *http.Request, at route, user string) (ask, *refusal) {
	a := ask{user: user, namespace: at.namespace, name: at.name, method: at.method}
	var err error
	if a.timeout, err = h.cfg.timeout(r.URL.RawQuery); err != nil {
		return a, refuse(http.StatusBadRequest, "%v", err)
	}
	if a.key, err = parseKey(r.Header.Values("Idempotency-Key")); err != nil {
		return a, refuse(http.StatusBadRequest, "%v", err)
	}
	if kind := r.Header.Get("Content-Type"); kind != "" {
		// curl says that a body is a form unless it is told otherwise; who means JSON is not to learn that.
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" && media != "application/x-www-form-urlencoded" {
			return a, refuse(http.StatusUnsupportedMediaType, "expected application/json, found %s", quoted(kind))
		}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return a, refuse(http.StatusBadRequest, "the body ended early: %v", err)
	case len(body) > maxBody:
		return a, refuse(http.StatusRequestEntityTooLarge, "expected a body of at most %d bytes", maxBody)
	}
	if a.given, err = parseBody(body); err != nil {
		return a, refuse(http.StatusBadRequest, "%v", err)
	}
	return a, nil
}

// call makes a call and answers it. While it waits its connection keeps its place: not before, when a client may take its time
// to ask, and not after, when it may take its time to hear.
func (h *handler) call(w http.ResponseWriter, r *http.Request, a ask) {
	rest, room := h.gate.work(r.Context(), a.user)
	if !room {
		h.refuse(w, string(method), refuse(http.StatusServiceUnavailable, "expected at most %d calls at a time of one user: ask again later", h.gate.each))
		return
	}
	rest = sync.OnceFunc(rest)
	defer rest() // net/http survives a panic, and the user's place is given back
	v, no := h.desk.take(a)
	if no != nil {
		rest()
		h.refuse(w, string(method), no)
		return
	}
	defer v.leave()
	if v.replayed {
		h.m.replayed.Inc()
		w.Header().Set("Idempotency-Replayed", "true")
	}
	said := h.desk.wait(r.Context(), v, a.timeout)
	rest()
	h.answer(w, string(method), said)
}

func (h *handler) refuse(w http.ResponseWriter, label string, r *refusal) {
	h.answer(w, label, answer{Code: r.code, Reasons: r.reasons})
}

func (h *handler) answer(w http.ResponseWriter, label string, a answer) {
	h.m.requests.WithLabelValues(label, strconv.Itoa(a.Code)).Inc()
	w.Header().Set("Content-Type", "application/json")
	if a.Code == http.StatusTooManyRequests || a.Code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.cfg.Patience))
	w.WriteHeader(a.Code)
	h.write(w, a)
}

// write writes a body. The client may be gone; there is nobody else to tell.
func (h *handler) write(w http.ResponseWriter, body any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.cfg.Patience))
	_ = json.NewEncoder(w).Encode(body)
}

// shown is a device as a GET shows it.
type shown struct {
	Namespace       string           `json:"namespace"`
	Name            string           `json:"name"`
	UID             string           `json:"uid"`
	Model           string           `json:"model,omitempty"`
	Protocol        string           `json:"protocol,omitempty"`
	MapperConnected bool             `json:"mapperConnected"`
	State           string           `json:"state,omitempty"`
	LastOnlineTime  string           `json:"lastOnlineTime,omitempty"`
	Conditions      []shownCondition `json:"conditions"`
	Methods         []shownMethod    `json:"methods"`
	Twins           []shownTwin      `json:"twins"`
}

type shownCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

type shownMethod struct {
	Name          string   `json:"name"`
	Description   string   `json:"description,omitempty"`
	PropertyNames []string `json:"propertyNames"`
}

type shownTwin struct {
	PropertyName    string      `json:"propertyName"`
	Type            string      `json:"type,omitempty"`
	Desired         *shownValue `json:"desired,omitempty"`
	Reported        *shownValue `json:"reported,omitempty"`
	DesiredVersion  versions    `json:"desiredVersion"`
	ReportedVersion versions    `json:"reportedVersion"`
}

type versions struct {
	Cloud int64 `json:"cloud"`
	Edge  int64 `json:"edge"`
}

type shownValue struct {
	Value    string            `json:"value"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// By is cloud or edge for a desired value: whose desire it is. Call names the method call that desires it.
	By   string `json:"by,omitempty"`
	Call string `json:"call,omitempty"`
}

func (h *handler) show(d Device) shown {
	o := d.Device
	s := shown{Namespace: o.Namespace, Name: o.Name, UID: string(o.UID), Protocol: common.Protocol(o, d.Model), State: d.State,
		Conditions: []shownCondition{}, Methods: []shownMethod{}, Twins: []shownTwin{}}
	if o.Spec.DeviceModelRef != nil {
		s.Model = o.Spec.DeviceModelRef.Name
	}
	if !d.LastOnline.IsZero() {
		s.LastOnlineTime = d.LastOnline.UTC().Format(time.RFC3339)
	}
	conditions, connected := h.deps.Devices.Status(o.Namespace, o.Name)
	s.MapperConnected = connected
	for _, c := range conditions {
		s.Conditions = append(s.Conditions, shownCondition{c.Type, string(c.Status), c.Reason, c.Message})
	}
	for _, m := range o.Spec.Methods {
		s.Methods = append(s.Methods, shownMethod{m.Name, m.Description, append([]string{}, m.PropertyNames...)})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Properties)) {
		s.Twins = append(s.Twins, showTwin(name, d.Properties[name]))
	}
	return s
}

func showTwin(name string, p *twin.Property) shownTwin {
	t := shownTwin{PropertyName: name, Type: string(p.Type), DesiredVersion: versions(p.DesiredVersions), ReportedVersion: versions(p.ReportedVersions)}
	if v := p.Desired(); v != nil && v.Value != "" {
		t.Desired = &shownValue{Value: v.Value, Metadata: v.Metadata, By: "cloud", Call: v.Call}
		if p.Edge != nil {
			t.Desired.By = "edge"
		}
	}
	if v := p.Reported; v != nil {
		t.Reported = &shownValue{Value: v.Value, Metadata: v.Metadata}
	}
	return t
}

// list writes the devices that a user may read, one after the other: together they may take more memory than a gateway has.
func (h *handler) list(w http.ResponseWriter, user string) {
	if _, err := io.WriteString(w, `{"devices":[`); err != nil {
		return
	}
	first := true
	for _, n := range h.deps.Devices.Names() {
		if !h.deps.Users.MayRead(user, n[0], n[1]) {
			continue
		}
		d, ok := h.deps.Devices.Device(n[0], n[1])
		if !ok {
			continue // it went meanwhile
		}
		if !first {
			_, _ = io.WriteString(w, ",") // the next write says the same
		}
		first = false
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.cfg.Patience))
		if json.NewEncoder(w).Encode(h.show(d)) != nil {
			return // the client is gone
		}
	}
	_, _ = io.WriteString(w, "]}\n")
}
