package mqtt

import (
	"sync/atomic"

	"github.com/mochi-mqtt/server/v2/system"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections, retained, queued, sessions, users        prometheus.Gauge
	throttled, panics, saveErrors, unsaved, damaged       prometheus.Counter
	library                                               atomic.Pointer[system.Info] // what the library counts; nil before it runs
	refused, cut, dropped, denied, requests, uploads, ext *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "tether", Subsystem: "mqtt", Name: name, Help: help})
	}
	by := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "tether", Subsystem: "mqtt", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "tether", Subsystem: "mqtt", Name: name, Help: help})
	}
	m := &metrics{
		connections: gauge("connections", "Open connections of MQTT clients; of an external broker: 1 while it is connected."),
		retained:    gauge("retained_bytes", "What retained messages and their topics hold."),
		queued:      gauge("queued_bytes", "Payloads of QoS 1 and 2 that clients have not acknowledged."),
		sessions:    gauge("sessions", "Sessions, of connected clients and of those that are away."),
		users:       gauge("users", "Users who may connect to the broker with a password."),
		throttled:   counter("throttled_total", "Times that a client sent faster than it may and was read more slowly."),
		panics:      counter("panics_total", "Panics that a client caused; each closed one connection or failed one request."),
		saveErrors:  counter("save_errors_total", "Times that sessions and messages could not be stored; they are tried again."),
		unsaved:     counter("unsaved_total", "Changes that were not stored, since too much waited already."),
		damaged:     counter("damaged_records_total", "Stored records that could not be read and were left out."),
		refused:     by("refused_connections_total", "Connections that were not let in, by reason.", "reason"),
		cut:         by("cut_connections_total", "Connections that were closed for what the client did, by reason.", "reason"),
		dropped:     by("dropped_messages_total", "Messages that did not reach a client, or were not retained, by reason.", "reason"),
		denied:      by("denied_total", "Publications and subscriptions that were refused, by reason.", "reason"),
		requests:    by("requests_total", "Requests about devices, by topic and code of the result.", "topic", "code"),
		uploads:     by("uploads_total", "Messages for the cloud, by what became of them.", "result"),
		ext:         by("external_attempts_total", "Attempts to connect to the external broker, by result.", "result"),
	}
	full := prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: "tether", Subsystem: "mqtt", Name: "queue_full_total",
		Help: "Messages of QoS 1 and 2 that did not reach a client since as many wait for it as may."}, func() float64 {
		if info := m.library.Load(); info != nil {
			return float64(atomic.LoadInt64(&info.InflightDropped))
		}
		return 0
	})
	reg.MustRegister(full, m.connections, m.retained, m.queued, m.sessions, m.users, m.throttled, m.panics, m.saveErrors, m.unsaved, m.damaged,
		m.refused, m.cut, m.dropped, m.denied, m.requests, m.uploads, m.ext)
	return m
}
