package scenario

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// series are metrics in Prometheus' text format: values by name and labels as they are written.
type series map[string]float64

// scrape reads a process's metrics.
func scrape(ctx context.Context, url string) (series, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics of %s: %s, %w", url, response.Status, err)
	}
	return parseSeries(string(text)), nil
}

func parseSeries(text string) series {
	s := series{}
	for line := range strings.Lines(text) {
		end := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || end < 0 {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(line[end:]), 64); err == nil {
			s[line[:end]] = v
		}
	}
	return s
}

// sum adds up the series of a name that have all of the labels, each written as label="value".
func (s series) sum(name string, labels ...string) (total float64) {
	for key, v := range s {
		if s.is(key, name, labels) {
			total += v
		}
	}
	return total
}

func (series) is(key, name string, labels []string) bool {
	own, rest, _ := strings.Cut(key, "{")
	if own != name {
		return false
	}
	for _, l := range labels {
		if !strings.Contains(","+strings.TrimSuffix(rest, "}"), ","+l) {
			return false
		}
	}
	return true
}

// since are the series' growth since an earlier reading of the same process.
func (s series) since(earlier series) series {
	grown := series{}
	for key, v := range s {
		grown[key] = v - earlier[key]
	}
	return grown
}

// label is a label's value in a key, empty where it has none.
func label(key, name string) string {
	_, rest, _ := strings.Cut(key, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// memory is where a process's memory is, in bytes.
type memory struct {
	// resident, anonymous and peak are the kernel's; peak is the most that resident was since forgetPeak or the start.
	resident, anonymous, peak float64
	// heap is what Go's heap has in use, stacks what goroutines have, metadata what the runtime needs for both.
	heap, stacks, metadata float64
	goroutines, files      float64
	cpu                    time.Duration
	at                     time.Time
}

// readMemory asks the kernel and the process itself.
func readMemory(ctx context.Context, pid int, metrics string) (m memory, err error) {
	s, err := scrape(ctx, metrics)
	if err != nil {
		return m, err
	}
	m = memory{heap: s.sum("go_memstats_heap_inuse_bytes"), stacks: s.sum("go_memstats_stack_inuse_bytes"),
		metadata:   s.sum("go_memstats_mspan_sys_bytes") + s.sum("go_memstats_mcache_sys_bytes") + s.sum("go_memstats_gc_sys_bytes") + s.sum("go_memstats_other_sys_bytes"),
		goroutines: s.sum("go_goroutines"), files: s.sum("process_open_fds"), at: time.Now(),
		cpu: time.Duration(s.sum("process_cpu_seconds_total") * float64(time.Second))}
	path := fmt.Sprintf("/proc/%d/status", pid)
	for name, into := range map[string]*float64{"VmRSS": &m.resident, "RssAnon": &m.anonymous, "VmHWM": &m.peak} {
		if *into, err = kilobytes(path, name); err != nil {
			return m, err
		}
	}
	return m, nil
}

// forgetPeak begins a new peak, proc(5).
func forgetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
		return fmt.Errorf("begin a new peak of memory: %w", err)
	}
	return nil
}

// kilobytes finds "name: value kB" in a file, in bytes.
func kilobytes(path, name string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(line, ":")
		var n float64
		if !found || key != name {
			continue
		}
		if _, err := fmt.Sscan(value, &n); err != nil {
			return 0, fmt.Errorf("read %s of %s: expected a number of kB, found %q", name, path, value)
		}
		return n * 1024, nil
	}
	return 0, fmt.Errorf("read %s: expected it in %s, found none", name, path)
}

// sockets is what the kernel has for all TCP connections of the machine, both of their ends, in bytes.
type sockets struct{ buffers, objects float64 }

// The kernel's kinds of objects that an open socket needs.
var socketSlabs = []string{"TCP", "TCPv6", "UDP", "UDPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq", "request_sock_TCP", "tw_sock_TCP", "skbuff_head_cache", "skbuff_small_head"}

// readSockets asks the kernel; a kernel that does not tell of its objects has none.
func readSockets() (s sockets, err error) {
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return s, fmt.Errorf("read the kernel's memory for sockets: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		for i, word := range words {
			if word == "mem" && i+1 < len(words) && words[0] == "TCP:" {
				pages, _ := strconv.ParseFloat(words[i+1], 64)
				s.buffers = pages * float64(os.Getpagesize())
			}
		}
	}
	slabs, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return s, nil
	}
	for line := range strings.Lines(string(slabs)) {
		words := strings.Fields(line)
		for _, name := range socketSlabs {
			if len(words) > 3 && words[0] == name {
				active, _ := strconv.ParseFloat(words[1], 64)
				size, _ := strconv.ParseFloat(words[3], 64)
				s.objects += active * size
			}
		}
	}
	return s, nil
}

// linkBytes is what crossed a link of the machine, in both directions.
func linkBytes(name string) (bytes float64, err error) {
	for _, direction := range []string{"rx_bytes", "tx_bytes"} {
		text, err := os.ReadFile("/sys/class/net/" + name + "/statistics/" + direction)
		if err != nil {
			return 0, fmt.Errorf("read what crossed the cable: %w", err)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			return 0, fmt.Errorf("read what crossed the cable: %w", err)
		}
		bytes += n
	}
	return bytes, nil
}

// load is the machine's load average over one minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}
