package image

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The texts are what containerd 1.6.20 answered (TestARealContainerdsErrorsTellWhatTheRegistrySaid asks it again), what 2.x
// makes in core/remotes/docker, and CRI-O's.
func TestErrorsTellWhatTheRegistrySaid(t *testing.T) {
	const pull = `failed to pull and unpack image "h:5000/app:v1": failed to resolve reference "h:5000/app:v1": `
	const ask = pull + `failed to do request: Head "https://h:5000/v2/app/manifests/v1": `
	const token = pull + `failed to authorize: failed to fetch oauth token: `
	for _, test := range []struct {
		code codes.Code
		text string
		want answer
	}{
		{codes.NotFound, pull + "h:5000/app:v1: not found", refused},
		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 401 Unauthorized", refused},
		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 403 Forbidden", refused},
		{codes.Unknown, pull + "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed", refused},
		{codes.Unknown, pull + "unexpected status from HEAD request to https://h:5000/v2/app/manifests/v1: 403 Forbidden", refused},
		{codes.Unknown, token + "unexpected status: 401 Unauthorized", refused},
		{codes.Unknown, token + "unexpected status from POST request to https://auth/token: 401 Unauthorized", refused},
		{codes.Unimplemented, pull + "failed to find supported auth scheme: not implemented", refused},
		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 403 Forbidden - Server message: denied: : 503 is what the backend says", refused},
		{codes.Unknown, `initializing source docker://h:5000/app:v1: reading manifest v1 in h:5000/app: manifest unknown`, refused},
		{codes.Unknown, `initializing source docker://h:5000/app:v1: reading manifest v1 in h:5000/app: unauthorized: access to the requested resource is not authorized`, refused},

		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 500 Internal Server Error", unreachable},
		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 429 Too Many Requests", unreachable},
		{codes.Unknown, pull + "unexpected status from HEAD request to https://h:5000/v2/app/manifests/v1: 503 Service Unavailable", unreachable},
		{codes.Unknown, pull + "pulling from host h:5000 failed with status code [manifests v1]: 521", unreachable},
		{codes.Unknown, token + "unexpected status: 503 Service Unavailable", unreachable},
		{codes.Unknown, token + `Post "https://auth/token": dial tcp: lookup auth on 127.0.0.53:53: server misbehaving`, unreachable},
		{codes.Unknown, ask + "dial tcp 10.0.0.1:5000: connect: connection refused", unreachable},
		{codes.Unknown, ask + "dial tcp 10.0.0.1:5000: i/o timeout", unreachable},
		{codes.Unknown, ask + "dial tcp: lookup h: no such host", unreachable},
		{codes.Unknown, ask + "dial tcp: lookup h on 10.0.0.53:53: read udp 10.0.0.2:53101->10.0.0.53:53: i/o timeout", unreachable},
		{codes.Unknown, ask + "EOF", unreachable},
		{codes.Unknown, ask + "read tcp 10.0.0.2:1->10.0.0.1:5000: read: connection reset by peer", unreachable},
		{codes.Unknown, ask + "net/http: TLS handshake timeout", unreachable},
		{codes.Unknown, ask + "x509: certificate signed by unknown authority", unreachable},
		{codes.Unknown, ask + "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 1970-01-01T00:00:20Z is before 2026-01-01T00:00:00Z", unreachable},
		{codes.Unknown, ask + "http: server gave HTTP response to HTTPS client", unreachable},
		{codes.Unknown, ask + "proxyconnect tcp: dial tcp 10.0.0.9:3128: connect: no route to host", unreachable},
		{codes.Unknown, ask + "Bad Gateway", unreachable},
		{codes.Canceled, `failed to pull and unpack image "h:5000/app:v1": failed to copy: context canceled`, unreachable},
		{codes.DeadlineExceeded, ask + "context deadline exceeded", unreachable},
		{codes.Unknown, `RegistryUnavailable: pinging container registry h:5000`, unreachable},
		{codes.Unknown, `initializing source docker://h:5000/app:v1: pinging container registry h:5000: Get "https://h:5000/v2/": dial tcp 10.0.0.1:5000: connect: network is unreachable`, unreachable},

		{codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial unix /run/containerd/containerd.sock: connect: connection refused"`, failed},
		{codes.Unavailable, "error reading from server: EOF", failed},
		{codes.Unknown, `failed to pull and unpack image "h:5000/app:v1": failed to extract layer sha256:1: write /x: no space left on device: unknown`, failed},
		{codes.NotFound, `failed to pull and unpack image "h:5000/app:v1": content digest sha256:1: not found`, failed},
		{codes.Unknown, `failed to pull and unpack image "h:5000/app:v1": failed to extract layer sha256:1: mkdir /x: permission denied: unknown`, failed},
		{codes.Unknown, `failed to parse image reference "App//:": invalid reference format: repository name must be lowercase`, failed},
		// Names are no answers.
		{codes.Unknown, `failed to unpack image "401.example:403/404/503:429"`, failed},
		{codes.Unknown, "something new", failed},
	} {
		if got := classify(status.Error(test.code, test.text)); got != test.want {
			t.Errorf("%v %s:\nexpected %v, found %v", test.code, test.text, test.want, got)
		}
	}
	if got := classify(nil); got != pulled {
		t.Errorf("no error: found %v", got)
	}
}
