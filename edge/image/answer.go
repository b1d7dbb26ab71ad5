package image

import (
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answer is what the registry said to a pull, as far as the runtime's error tells.
type answer int

const (
	// pulled: the runtime has the image.
	pulled answer = iota
	// refused: the registry said no, to these credentials or of this image.
	refused
	// unreachable: no registry was heard, or it could not answer (5xx, 429).
	unreachable
	// failed is every other error: a full disk, a broken layer, a name that is none, a runtime that is away.
	failed
)

func (a answer) String() string { return [...]string{"pulled", "refused", "unreachable", "failed"}[a] }

// HTTP statuses stand behind a colon in the texts of containerd ("... status code [manifests v1]: 403 Forbidden", "unexpected
// status from HEAD request to https://...: 500 Internal Server Error"). No image name and no URL holds a colon and a space.
var (
	saysNo     = regexp.MustCompile(`: (401|403|404)( |$)`)
	saysLater  = regexp.MustCompile(`: (408|429|5\d\d)( |$)`)
	endOfFile  = regexp.MustCompile(`: (unexpected )?EOF$`)
	resolution = "failed to resolve reference"
)

// Parts of errors of containerd 1.6 to 2.x and CRI-O. The first are from their remotes/docker (authorizer.go, resolver.go),
// from the token and error formats of the OCI distribution specification, and from CRI-O's library of images.
var noes = []string{
	"pull access denied", "authorization failed", "insufficient_scope", "failed to find supported auth scheme", "no basic auth credentials",
	"unauthorized:", "denied: requested access", "manifest unknown", "name unknown", "repository name not known to registry",
}

// Errors of Go's net, net/http, crypto/tls and crypto/x509 packages, as they stand in the middle of the runtime's. A
// certificate that is wrong is no answer of the registry: it is another machine's (a captive portal), or the clock is not
// right yet, as after a boot without a battery.
var silences = []string{
	"dial tcp", "dial udp", "proxyconnect ", "no such host", "server misbehaving", "connection refused", "connection reset by peer", "broken pipe",
	"no route to host", "network is unreachable", "host is down", "connection timed out", "i/o timeout", "context deadline exceeded",
	"tls handshake timeout", "timeout awaiting response headers", "client.timeout exceeded", "http2: ", "stream error: ",
	"tls: ", "x509: ", "server gave http response to https client",
	// What a proxy says to CONNECT stands without its number.
	": bad gateway", ": service unavailable", ": gateway timeout", ": internal server error",
	"registryunavailable", // k8s.io/cri-api/pkg/errors
}

// classify says what an error of the runtime's PullImage tells of the registry. What it does not know is failed, for which no
// image serves: a no that looks like silence would be one too many.
func classify(err error) answer {
	if err == nil {
		return pulled
	}
	s := status.Convert(err)
	text := s.Message()
	lower := strings.ToLower(text)
	has := func(parts []string) bool {
		for _, p := range parts {
			if strings.Contains(lower, p) {
				return true
			}
		}
		return false
	}
	switch {
	// The runtime itself is away: of the registry nothing is known.
	case strings.Contains(lower, "dial unix") || strings.Contains(lower, "error reading from server"):
		return failed
	case s.Code() == codes.Unauthenticated, s.Code() == codes.PermissionDenied, saysNo.MatchString(text), has(noes):
		return refused
	// containerd says of a 404 that the reference was not found. Content that is missing on its own disk is "not found" too.
	case s.Code() == codes.NotFound && strings.Contains(text, resolution):
		return refused
	// It gives up a download that does not move by ending its own context (image_pull_progress_timeout).
	case s.Code() == codes.DeadlineExceeded, s.Code() == codes.Canceled:
		return unreachable
	case saysLater.MatchString(text), endOfFile.MatchString(text), has(silences):
		return unreachable
	}
	return failed
}
