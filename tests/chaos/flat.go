package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// use is what the processes of Tether hold.
type use struct {
	// By program: bytes that are its own and in use, goroutines, file descriptors.
	Memory, Goroutines, Files map[string]int64
	// Store is the size of the edge's database and all beside it, in bytes.
	Store int64
}

// measure takes the use of now.
func (w *world) measure(ctx context.Context) (u use, err error) {
	u = use{map[string]int64{}, map[string]int64{}, map[string]int64{}, 0}
	take := func(name string, pid int, metrics func() (string, error)) {
		files, e1 := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		body, e2 := metrics()
		memory, e3 := anonymous(pid)
		spare, e4 := spare(body)
		goroutines, e5 := metric(body, "go_goroutines")
		err = errors.Join(err, e1, e2, e3, e4, e5)
		u.Memory[name], u.Files[name], u.Goroutines[name] = memory-spare, int64(len(files)), goroutines
	}
	pid, e := w.edge.CorePID()
	if e != nil {
		return u, e
	}
	take("edgecore", pid, func() (string, error) {
		// What is garbage by now is nothing that it holds; on a machine that is busy it may be as much again, and more.
		if _, err := w.edge.Get(ctx, w.edge.Metrics()+"/debug/pprof/heap?gc=1"); err != nil {
			return "", err
		}
		return w.edge.Get(ctx, w.edge.Metrics()+"/metrics")
	})
	for _, c := range w.clouds {
		take(c.Name(), c.PID(), func() (string, error) { return get(ctx, "http://"+c.metrics+"/metrics") })
	}
	if u.Store, e = w.disk.used(); e != nil {
		return u, e
	}
	return u, err
}

// flat returns nil unless something grew that should not: by more than half and by more than a program may need for what
// it happens to do at the moment.
func flat(before, after use) error {
	var faults []error
	grown := func(what, unit string, was, is map[string]int64, slack int64) {
		for name := range is {
			if is[name] > was[name]*3/2+slack {
				faults = append(faults, fmt.Errorf("%s of %s: %d%s after the faults, %d before", what, name, is[name], unit, was[name]))
			}
		}
	}
	grown("memory", " bytes", before.Memory, after.Memory, 16<<20)
	grown("goroutines", "", before.Goroutines, after.Goroutines, 60)
	grown("open files", "", before.Files, after.Files, 30)
	if after.Store > before.Store*3/2+32<<20 {
		faults = append(faults, fmt.Errorf("the store holds %d bytes, before %d", after.Store, before.Store))
	}
	return errors.Join(faults...)
}

// spare is the memory that a program written in Go has free and has not given back to the kernel, in bytes. It does that over minutes,
// and later still on a machine that is busy.
func spare(metrics string) (int64, error) {
	idle, err1 := metric(metrics, "go_memstats_heap_idle_bytes")
	released, err2 := metric(metrics, "go_memstats_heap_released_bytes")
	return idle - released, errors.Join(err1, err2)
}

// anonymous is the memory of a process that no file backs, in bytes.
func anonymous(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d: expected RssAnon in its status", pid)
}

// metric reads one without labels.
func metric(body, name string) (int64, error) {
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(rest, 64)
			return int64(f), err
		}
	}
	return 0, fmt.Errorf("expected metric %s, found none", name)
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var b strings.Builder
	_, err = bufio.NewReader(resp.Body).WriteTo(&b)
	return b.String(), err
}
