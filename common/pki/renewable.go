package pki

import (
	"bytes"
	"time"
)

// renewablePrefix begins the line before a certificate that says until when it can be exchanged for a new one. PEM lets
// text stand before a block (RFC 7468, section 2), so that file and answer stay what all programs can read.
const renewablePrefix = "Renewable-Until: "

// WithRenewable puts a line before a certificate (PEM) that says until when it can be exchanged for a new one.
func WithRenewable(cert []byte, until time.Time) []byte {
	return append([]byte(renewablePrefix+until.UTC().Format(time.RFC3339)+"\n"), cert...)
}

// Renewable returns what WithRenewable wrote; ok is false if there is no such line before the first certificate.
func Renewable(data []byte) (until time.Time, ok bool) {
	head, _, _ := bytes.Cut(data, []byte("-----BEGIN"))
	for line := range bytes.Lines(head) {
		if text, is := bytes.CutPrefix(line, []byte(renewablePrefix)); is {
			until, err := time.Parse(time.RFC3339, string(bytes.TrimSpace(text)))
			return until, err == nil
		}
	}
	return time.Time{}, false
}
