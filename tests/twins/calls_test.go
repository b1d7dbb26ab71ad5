package twins

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Each call sets dose, which nobody else desires, to a value of its own: what a device was told twice is seen.
const (
	method = "give"
	dose   = "dose"
	// devicesOfCalls are few, so that a call which is made twice comes after another one: a device is not written what it has.
	devicesOfCalls = 3
)

// A call is one call of a method, with its key, until it has an outcome that stays.
type call struct {
	item   *item
	thing  *thing
	births int // of the item when it was made
	value  string

	mu      sync.Mutex // guards all below
	tries   int
	outcome string // "" while there is none
	last    string // what was answered last
}

func (c *call) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("call of %s with %s=%s: %d tries, outcome %q, last %s", c.item, dose, c.value, c.tries, c.outcome, c.last)
}

func (c *call) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outcome == ""
}

// call calls the method of a device, and asks again with the same key until it is known what came of it.
func (x *trial) call() {
	i := x.items[x.random.IntN(devicesOfCalls)]
	c := &call{item: i, thing: i.thing, births: i.births, value: x.values.next()}
	x.calls = append(x.calls, c)
	x.note("site: %s %s(%s=%s)", i, method, dose, c.value)
	url := fmt.Sprintf("http://%s/v1/devices/%s/%s/methods/%s?timeout=5s", x.edge.cfg.HTTP.BindAddress, x.namespace, i.name, method)
	x.callers.Go(func() {
		for ctx := x.calling; ctx.Err() == nil && c.open(); {
			c.try(ctx, url)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
}

func (c *call) try(ctx context.Context, url string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(fmt.Sprintf(`{%q:%q}`, dose, c.value)))
	if err != nil {
		c.heard(0, err.Error())
		return
	}
	request.Header.Set("Idempotency-Key", "call-"+c.value)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		c.heard(0, err.Error())
		return
	}
	defer response.Body.Close()
	var body struct{ Reasons []string }
	_ = json.NewDecoder(response.Body).Decode(&body) // what is cut off has no reasons
	c.heard(response.StatusCode, strings.Join(body.Reasons, ", "))
}

// heard notes an answer. What may still come true, and what nobody answered, is asked again.
func (c *call) heard(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	c.last = fmt.Sprint(code, " ", reason)
	switch code {
	case http.StatusOK:
		c.outcome = "done"
	case http.StatusConflict:
		c.outcome = "replaced"
	case http.StatusNotFound:
		c.outcome = "gone"
	}
}

// judge says what is wrong with a call that has its outcome. Where the device was made anew or moved meanwhile, nobody remembers it.
func (c *call) judge() (found []string) {
	n := 0
	c.thing.mu.Lock()
	for _, w := range c.thing.writes {
		if w == (write{dose, c.value}) {
			n++
		}
	}
	c.thing.mu.Unlock()
	c.mu.Lock()
	outcome := c.outcome
	c.mu.Unlock()
	if n > 1 || outcome == "done" && n != 1 && c.births == c.item.births {
		found = append(found, fmt.Sprintf("%s was written %d times: %v", c, n, c.thing.writes))
	}
	return found
}

// called waits until every call has an outcome, and judges them.
func (x *trial) called() {
	x.t.Helper()
	eventually(x.t, "every call has an outcome", *waitFlag, func() error {
		for _, c := range x.calls {
			if c.open() {
				return fmt.Errorf("none yet: %s", c)
			}
		}
		return nil
	})
	outcomes := map[string]int{}
	for _, c := range x.calls {
		outcomes[c.outcome]++
		for _, wrong := range c.judge() {
			x.t.Error(wrong)
		}
	}
	x.note("calls: %v", outcomes)
}
