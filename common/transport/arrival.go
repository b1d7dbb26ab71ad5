package transport

import "context"

type arrivalKey struct{}

// WithArrival has arrived called when a hub, or something on the way that answers for it, took a connection over TCP, before anything is said
// to it: what is left is its turn. An error of arrived gives the attempt up, and is what Dial returns. QUIC has no such moment.
func WithArrival(ctx context.Context, arrived func() error) context.Context {
	return context.WithValue(ctx, arrivalKey{}, arrived)
}

// Arrived calls what WithArrival set.
func Arrived(ctx context.Context) error {
	if arrived, ok := ctx.Value(arrivalKey{}).(func() error); ok {
		return arrived()
	}
	return nil
}
