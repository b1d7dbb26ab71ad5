package chaos

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// timeline is what happened, in order.
type timeline struct {
	out   io.Writer // gets each line at once
	begun time.Time

	mu    sync.Mutex
	lines []string
}

func (t *timeline) say(format string, args ...any) {
	line := fmt.Sprintf("%7.1fs  %s", time.Since(t.begun).Seconds(), fmt.Sprintf(format, args...))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	fmt.Fprintln(t.out, line)
}

func (t *timeline) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
