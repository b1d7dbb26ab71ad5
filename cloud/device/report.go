package device

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/common/wire"
)

// Hints for the edge's next try.
const (
	retrySoon      = 250 * time.Millisecond // something moved meanwhile
	retryServer    = time.Second
	retryForbidden = 5 * time.Second
)

// Report takes what node says of a Device of that uid; body is a Report as JSON. It blocks until that is written, at most
// for Config.MaxWait, and returns early with a Result that is not final when ctx ends. The Result is final once the API server
// has the report, and where it never will: 400 and 422 for what cannot be kept, 403 where the Device is not the node's, 404
// where there is none, 409 where it is another. One that is not final, but for a newer report of the device, says when to send
// the newest again. Result.Id is not set. It never returns nil.
func (c *Controller) Report(ctx context.Context, node string, key types.NamespacedName, uid string, body []byte) *wire.Result {
	start := time.Now()
	r := c.report(ctx, node, key, uid, body)
	c.m.seconds.Observe(time.Since(start).Seconds())
	c.m.reports.WithLabelValues(codeLabel(r.Code), strconv.FormatBool(r.Final)).Inc()
	if r.Final && r.Code >= http.StatusBadRequest {
		c.m.refused.WithLabelValues(r.Reason).Inc()
	}
	return r
}

func (c *Controller) report(ctx context.Context, node string, key types.NamespacedName, uid string, body []byte) *wire.Result {
	if err := checkKey(key); err != nil {
		return refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, "report: %v", err)
	}
	report, refused := parse(body, uid)
	if refused != nil {
		return refused
	}
	if refused := c.admit(ctx, node, key, report.UID); refused != nil {
		return refused
	}
	p, err := c.pending(key, node, report)
	if err != nil {
		return later(http.StatusInternalServerError, metav1.StatusReasonInternalError, time.Minute, "%v", err)
	}
	if err := ctx.Err(); err != nil { // a session that ended must not take the place of the one after it
		return later(0, metav1.StatusReasonServiceUnavailable, retrySoon, "the session ended: %v", err)
	}
	c.put(key, p)
	c.queue.Add(key)
	timer := time.NewTimer(c.cfg.MaxWait)
	defer timer.Stop()
	select {
	case r := <-p.answer:
		return r
	case <-timer.C:
		return later(http.StatusServiceUnavailable, metav1.StatusReasonTimeout, retryServer, "the report waits for its turn")
	case <-ctx.Done():
		return later(0, metav1.StatusReasonServiceUnavailable, retrySoon, "the session ended: %v", ctx.Err())
	}
}

func checkKey(key types.NamespacedName) error {
	k := object.Key{Kind: object.DeviceStatuses, Namespace: key.Namespace, Name: key.Name}
	if err := k.Validate(); err != nil {
		return err
	}
	for _, s := range []string{key.Namespace, key.Name} {
		if faults := path.IsValidPathSegmentName(s); s == "" || len(faults) > 0 {
			return errors.New("name " + strconv.Quote(s) + " " + strings.Join(faults, ", "))
		}
	}
	return nil
}

// admit returns nil if the node may report for the Device. The cache may be behind the edge, which may have come from another
// CloudCore; so nothing is refused for good on its word.
func (c *Controller) admit(ctx context.Context, node string, key types.NamespacedName, uid string) *wire.Result {
	if against(node, key, uid, cached[*v1beta1.Device](c.deps.Cache, object.Devices, key)) == nil {
		return nil
	}
	if !c.asked.allow(node) {
		return later(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, retryServer, "node %q reports for too many devices that are not its own", node)
	}
	d, err := c.deps.API.Device(ctx, key)
	if apierrors.IsNotFound(err) {
		d, err = nil, nil
	}
	if err != nil {
		return answerTo(err)
	}
	if refused := against(node, key, uid, d); refused != nil {
		return refused
	}
	return later(http.StatusConflict, metav1.StatusReasonConflict, retrySoon, "CloudCore has not heard yet what the API server says of device %s", key)
}

// against says why a node may not report; nil if it may.
func against(node string, key types.NamespacedName, uid string, d *v1beta1.Device) *wire.Result {
	switch {
	case d == nil:
		return refusal(http.StatusNotFound, metav1.StatusReasonNotFound, "there is no device %s", key)
	case node == "" || d.Spec.NodeName != node: // first: what another node's device is like is not for this one to learn
		return refusal(http.StatusForbidden, metav1.StatusReasonForbidden, "device %s is not one of node %q", key, node)
	case string(d.UID) != uid:
		return refusal(http.StatusConflict, metav1.StatusReasonConflict, "device %s has uid %s, the report is for uid %s", key, d.UID, uid)
	}
	return nil
}

// pending notes with a report what it follows.
func (c *Controller) pending(key types.NamespacedName, node string, report *Report) (*pending, error) {
	p := &pending{node: node, report: report, answer: make(chan *wire.Result, 1)}
	e := c.entry(key)
	c.mu.Lock()
	p.writes = e.writes
	c.mu.Unlock()
	s, _ := c.known(key, e)
	var err error
	p.base, err = printOf(s)
	return p, err
}

// put makes p the device's newest report. An older one is answered at once: its edge has a newer one under way, and asks again if
// that is lost.
func (c *Controller) put(key types.NamespacedName, p *pending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entryLocked(key) // in one section: in an entry that is forgotten meanwhile nobody would find p
	if old := e.waiting; old != nil {
		c.m.superseded.Inc()
		old.answer <- later(http.StatusServiceUnavailable, "Superseded", retrySoon, "a later report of this device took its place")
	}
	if p.writes != e.writes { // since its base was looked up
		p.base = e.print
	}
	e.waiting = p
}

// claim takes the report that is to be written now out of the way of newer ones. It is false where one has come already.
func (c *Controller) claim(e *entry, p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p != nil && e.writing != p {
		if e.waiting != p {
			return false
		}
		e.waiting, e.writing = nil, p
	}
	return true
}

// answer ends a report that waits or is being written; nil means whichever.
func (c *Controller) answer(key types.NamespacedName, p *pending, r *wire.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answerLocked(key, p, r)
}

// answerLocked is answer with c.mu held.
func (c *Controller) answerLocked(key types.NamespacedName, p *pending, r *wire.Result) {
	e := c.entries[key]
	if e == nil {
		return
	}
	for _, place := range []**pending{&e.waiting, &e.writing} {
		if q := *place; q != nil && (p == nil || q == p) {
			q.answer <- r
			*place = nil
		}
	}
}

// answerTo turns an API server's refusal, or its silence, into what the edge is told. What says that the content is wrong is
// final, nothing else.
func answerTo(err error) *wire.Result {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		reason := metav1.StatusReasonServiceUnavailable
		if errors.Is(err, context.DeadlineExceeded) {
			reason = metav1.StatusReasonTimeout
		}
		return later(0, reason, retryServer, "%v", err)
	}
	s := status.Status()
	after := retryServer
	switch s.Code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return refusal(s.Code, s.Reason, "%s", s.Message)
	case http.StatusConflict:
		after = retrySoon
	case http.StatusForbidden, http.StatusUnauthorized:
		after = retryForbidden
	}
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 {
		after = time.Duration(seconds) * time.Second
	}
	return later(s.Code, s.Reason, after, "%s", s.Message)
}

// Reads of the API server that one node may cause a second, and at once, by reports that the cache speaks against. A hundred
// devices that were deleted while their node was away are so answered at once.
const (
	lookupRate  = 20
	lookupBurst = 100
)

// lookups bound them. There is one for each node that ever caused any.
type lookups struct {
	mu    sync.Mutex
	nodes map[string]*rate.Limiter // guarded by mu
}

func newLookups() *lookups { return &lookups{nodes: map[string]*rate.Limiter{}} }

func (l *lookups) allow(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes[node] == nil {
		l.nodes[node] = rate.NewLimiter(lookupRate, lookupBurst)
	}
	return l.nodes[node].Allow()
}
