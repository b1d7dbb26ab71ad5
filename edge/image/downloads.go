package image

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// containerd tells which downloads it has under way by its own interface, on the same socket as the CRI (api/services/
// content/v1/content.proto of containerd 1.6 to 2.x); images of the CRI are in this namespace. Other runtimes answer that they do
// not know the method.
const (
	listStatuses  = "/containerd.services.content.v1.Content/ListStatuses"
	criNamespace  = "k8s.io"
	namespaceKey  = "containerd-namespace"
	statusesField = 1 // ListStatusesResponse.statuses
	refField      = 3 // Status.ref
	offsetField   = 4 // Status.offset
)

// askDownloads returns how many bytes of each download the runtime has.
func askDownloads(ctx context.Context, conn *grpc.ClientConn) (map[string]int64, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, namespaceKey, criNamespace)
	var request, response frame
	if err := conn.Invoke(ctx, listStatuses, &request, &response, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return nil, err
	}
	return parseDownloads(response)
}

// parseDownloads reads a ListStatusesResponse. Four numbers are no reason to link containerd's types.
func parseDownloads(b []byte) (map[string]int64, error) {
	all := map[string]int64{}
	err := fields(b, func(n protowire.Number, value []byte, _ uint64) error {
		if n != statusesField {
			return nil
		}
		var ref string
		var offset int64
		err := fields(value, func(n protowire.Number, value []byte, number uint64) error {
			switch n {
			case refField:
				ref = string(value)
			case offsetField:
				offset = int64(number)
			}
			return nil
		})
		all[ref] = offset
		return err
	})
	return all, err
}

// fields calls visit with each field of an encoded message: its bytes, or its number where it is a varint.
func fields(b []byte, visit func(n protowire.Number, value []byte, number uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return fmt.Errorf("read the runtime's downloads: %w", protowire.ParseError(size))
		}
		b = b[size:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return fmt.Errorf("read the runtime's downloads: %w", protowire.ParseError(size))
		}
		if err := visit(n, value, number); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// Limits of a pull.
const (
	// longestWait is how long a pod waits for a newer image while the one that is here could serve, even if it is being
	// downloaded all the while.
	longestWait = 5 * time.Minute
	// stalledAfter ends a pull of which nothing moves, so that a registry that hangs costs no connection for ever: containerd
	// before 1.7 would wait on. unpackingAfter is the same for one whose downloads are done.
	stalledAfter   = 5 * time.Minute
	unpackingAfter = 30 * time.Minute
	// lookEvery is how often the downloads are looked at while a pull runs.
	lookEvery = 500 * time.Millisecond
)

// A course is what is known of how far a pull has come. The runtime does not tell which download is whose: while several
// pulls run, what moves counts for each.
type course struct {
	began time.Time
	// moved is when a download last moved, or when the pull began.
	moved time.Time
	// last are the downloads at the last look; nil before the first.
	last map[string]int64
	// seen: a download moved since the pull began, so the registry was reached.
	seen bool
	// known: the runtime tells of its downloads.
	known bool
}

// look takes the downloads of now.
func (c *course) look(now time.Time, downloads map[string]int64, err error) {
	if err != nil {
		c.known = false
		return
	}
	c.known = true
	if c.last != nil && !maps.Equal(c.last, downloads) {
		c.moved, c.seen = now, true
	}
	c.last = downloads
}

// unpacking: all that was downloaded is here.
func (c *course) unpacking() bool { return c.known && c.seen && len(c.last) == 0 }

// silentAt is when the pull has been waited for long enough, if nothing moves until then and patience is what a registry
// has for an answer.
func (c *course) silentAt(patience time.Duration) time.Time {
	longest := c.began.Add(longestWait)
	if at := c.moved.Add(patience); !c.unpacking() && at.Before(longest) {
		return at
	}
	return longest
}

// idle: nothing moved for so long, and there is something left that could.
func (c *course) idle(now time.Time, patience time.Duration) bool {
	return !c.unpacking() && now.Sub(c.moved) >= patience
}

// over says that the pull is to be ended. One of which nothing is known is ended only when nobody waits for it any more.
func (c *course) over(now time.Time, waiting bool) bool {
	limit := stalledAfter
	if c.unpacking() {
		limit = unpackingAfter
	}
	return now.Sub(c.moved) >= limit && (c.known || !waiting)
}
