package main

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/tests/stack"
)

const (
	// wearRest is over how long a load goes on before its writes are counted. The kubelet looks at each pod again 60 to 90 s after it
	// has come up, and then writes what its status says of the pod's resources, once.
	wearRest = 2 * time.Minute
	// wearTime is over how long they are counted.
	wearTime = 10 * time.Minute
)

// Reports of devices, for which they are acknowledged once they are on the disk.
const (
	wearDevices = 10
	wearReports = 100 // a minute
)

// How often KubeEdge's edgecore stores its node's status (edged.nodeStatusUpdateFrequency, by default), and the part of its writes
// that Tether's may be.
const (
	kubeedgeStatus = 10 * time.Second
	kubeedgePart   = 0.1
)

// plainRows is how many transactions of one row tell what one costs.
const plainRows = 200

// measureWear counts what reaches the block device below edgecore's data, and below the kubelet's directory, with the file system's
// journal: at rest without pods, at rest with 10, and with 100 reports of devices a minute.
func measureWear(ctx context.Context, b *bench) error {
	s, err := b.system(ctx, nil)
	if err != nil {
		return err
	}
	return s.down(s.wear(ctx))
}

func (s *system) wear(ctx context.Context) error {
	e, err := s.wearingEdge(ctx, "edge-wear")
	if err != nil {
		return err
	}
	plain, err := e.plainRow(ctx)
	if err != nil {
		return err
	}
	s.bench.figure(Figure{What: "for comparison: a row that SQLite writes as it comes", Unit: "KiB", Values: []float64{plain / 1024},
		Note: "a rollback journal and full syncs, as KubeEdge's database has; with the file system's journal"})
	if err := s.deploy(ctx, "ten", e.Name()); err != nil {
		return err
	}
	// KubeEdge stores each status of the node as a row; what else it stores at rest is not counted here.
	idle := plain * float64(time.Hour/kubeedgeStatus)
	for _, pods := range []int{0, 10} {
		if _, err := s.scale(ctx, "ten", pods); err != nil {
			return err
		}
		if err := e.hour(ctx, s.bench, fmt.Sprintf("at rest, %d pods", pods), atMost(2), idle, nil); err != nil {
			return err
		}
	}
	api, err := s.devicesAPI()
	if err != nil {
		return err
	}
	reports := idle + plain*wearReports*60
	return e.hour(ctx, s.bench, "10 pods and 100 reports a minute", atMost(kubeedgePart*reports/(1<<20)), reports, func(ctx context.Context) (func() error, error) {
		return s.reporting(ctx, api, e.Edge)
	})
}

// wearingEdge has a flash for edgecore's data and one for the kubelet's directory.
type wearingEdge struct {
	*stack.Edge
	data, kubelet *flash
}

func (s *system) wearingEdge(ctx context.Context, name string) (e *wearingEdge, err error) {
	h, err := s.host(ctx, name)
	if err != nil {
		return nil, err
	}
	e = &wearingEdge{}
	if e.data, err = newFlash(ctx, h, "data", s.Joined(h).DataDir()); err != nil {
		return nil, err
	}
	if e.kubelet, err = newFlash(ctx, h, "kubelet", v1alpha1.DefaultEdgeCore().Kubelet.RootDir); err != nil {
		return nil, err
	}
	if e.Edge, err = s.NewEdge(ctx, h, nil); err != nil {
		return nil, err
	}
	if err := e.StartCore(ctx); err != nil {
		return nil, err
	}
	return e, e.WaitReady(ctx, readyTimeout)
}

// hour tells what an hour of a load writes, in MiB, from wearTime of it. load, if not nil, starts it, and what it returns ends it.
// kubeedge is what KubeEdge writes for the same, by reason, in bytes.
func (e *wearingEdge) hour(ctx context.Context, b *bench, what string, limit *float64, kubeedge float64, load func(context.Context) (func() error, error)) (err error) {
	if load != nil {
		end, failed := load(ctx)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, end()) }()
	} else if err := e.delivered(ctx); err != nil {
		return err
	}
	if err := b.rest(ctx, wearRest); err != nil {
		return err
	}
	before, err := e.look(ctx)
	if err != nil {
		return err
	}
	if err := b.rest(ctx, wearTime); err != nil {
		return err
	}
	after, err := e.look(ctx)
	if err != nil {
		return err
	}
	hours := after.at.Sub(before.at).Hours()
	// The second copy is made once an hour at rest, whether that was in this time or not.
	data := float64(after.data - before.data)
	if after.copied != before.copied {
		data -= float64(after.copySize)
	}
	data = data/hours + float64(after.copySize)
	b.figure(Figure{What: what + ": edgecore's data in an hour", Unit: "MiB", Limit: limit, Values: []float64{data / (1 << 20)},
		Note: fmt.Sprintf("over %s; one second copy of %s KiB in it; SQLite's log took %s; the flash below the kubelet's directory took %s MiB",
			after.at.Sub(before.at).Round(time.Second), number(float64(after.copySize)/1024), logged(before.sqlite, after.sqlite, hours), number(float64(after.kubelet-before.kubelet)/hours/(1<<20)))})
	b.figure(Figure{What: what + ": part of what KubeEdge writes for it", Limit: atMost(kubeedgePart), Values: []float64{data / kubeedge},
		Note: fmt.Sprintf("by reason: %s MiB, a row for each status of the node and each report", number(kubeedge/(1<<20)))})
	return nil
}

// delivered waits until the cloud has what came of the pods' start.
func (e *wearingEdge) delivered(ctx context.Context) error {
	return until(ctx, time.Second, readyTimeout, "an empty outbox", func() error {
		status, err := e.Status(ctx)
		if err == nil && len(status.Outbox) > 0 {
			err = fmt.Errorf("%+v wait", status.Outbox)
		}
		return err
	})
}

// wornSample is what was written until some moment, in bytes.
type wornSample struct {
	at            time.Time
	data, kubelet int64
	sqlite        map[string]float64 // by what it was for
	copied        string             // when the second copy was made
	copySize      int64
}

// emptyLog has the log of the database moved into it. Else what was written before would be counted whenever SQLite comes to it, and
// what is written meanwhile might not be.
func (e *wearingEdge) emptyLog(ctx context.Context) error {
	err := e.Inside(true, func() error {
		c, err := (&sqlite3.SQLiteDriver{}).Open("file:" + filepath.Join(e.DataDir(), "store", "tether.db") + "?mode=rw")
		if err != nil {
			return err
		}
		_, err = c.(driver.Execer).Exec("PRAGMA wal_checkpoint(PASSIVE)", nil) //nolint:staticcheck // as in plainRow
		return errors.Join(err, c.Close())
	})
	if err != nil {
		return fmt.Errorf("empty the log of the database: %w", err)
	}
	return ctx.Err()
}

// logged says what went into the log between two samples in an hour, by what it was for, the most first.
func logged(before, after map[string]float64, hours float64) string {
	all, by := 0.0, map[string]float64{}
	for what, n := range after {
		if d := n - before[what]; d > 0 {
			by[what] = d
			all += d
		}
	}
	out := []string{number(all/hours/(1<<20)) + " MiB"}
	for _, what := range slices.SortedFunc(maps.Keys(by), func(a, b string) int { return cmp.Compare(by[b], by[a]) }) {
		out = append(out, what+" "+number(by[what]/hours/(1<<20)))
	}
	return strings.Join(out, ", ")
}

func (e *wearingEdge) look(ctx context.Context) (w wornSample, err error) {
	w.at = time.Now()
	if err := e.emptyLog(ctx); err != nil {
		return w, err
	}
	if w.data, err = e.data.written(ctx); err != nil {
		return w, err
	}
	if w.kubelet, err = e.kubelet.written(ctx); err != nil {
		return w, err
	}
	metrics, err := metricsText(ctx, e.HTTPClient(answerTimeout), e.Metrics()+"/metrics")
	if err != nil {
		return w, err
	}
	w.sqlite = metricBy(metrics, "tether_store_written_bytes_total", "what")
	text, err := e.Run(ctx, "stat", "-c", "%Y %s", filepath.Join(e.DataDir(), "store", "tether.db.copy"))
	if err != nil {
		return w, err
	}
	_, err = fmt.Sscan(text, &w.copied, &w.copySize)
	return w, err
}

// plainRow is what SQLite as it comes has the flash write for a transaction of one row, in bytes.
func (e *wearingEdge) plainRow(ctx context.Context) (float64, error) {
	var before int64
	err := e.Inside(true, func() (err error) {
		c, err := (&sqlite3.SQLiteDriver{}).Open(filepath.Join(e.DataDir(), "plain.db"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		run := func(q string, args ...driver.Value) error {
			_, err := c.(driver.Execer).Exec(q, args) //nolint:staticcheck // without a context: it has to stay on this thread
			return err
		}
		if err := run("CREATE TABLE rows (name TEXT PRIMARY KEY, value TEXT)"); err != nil {
			return err
		}
		for i := range plainRows + wearDevices {
			if i == wearDevices {
				if before, err = e.data.written(ctx); err != nil {
					return err
				}
			}
			if err := run("INSERT OR REPLACE INTO rows VALUES (?, ?)", deviceName(i%wearDevices), strings.Repeat(fmt.Sprint(i%10), 300)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("write rows with SQLite as it comes: %w", err)
	}
	after, err := e.data.written(ctx)
	return float64(after-before) / plainRows, err
}

// reporting has devices report in turn by MQTT, each report acknowledged, until the function that it returns is called.
func (s *system) reporting(ctx context.Context, api *rest.RESTClient, e *stack.Edge) (end func() error, err error) {
	var devices []*v1beta1.Device
	for i := range wearDevices {
		devices = append(devices, newDevice(deviceName(i), e.Name(), "mqtt", 1))
	}
	if err := s.makeDevices(ctx, api, newModel("mqtt", 1), devices); err != nil {
		return nil, err
	}
	c, err := connectMQTT(ctx, e, "bench")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Minute / wearReports)
		defer tick.Stop()
		for i := 1; ; i++ {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if err := answered(ctx, publish(c, deviceName(i%wearDevices), propertyName(0), i)); err != nil && ctx.Err() == nil {
				done <- err
				return
			}
		}
	}()
	return func() error {
		cancel()
		err := <-done
		c.Disconnect(0)
		return err
	}, nil
}
