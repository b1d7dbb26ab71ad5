package cluster

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// listTries bounds whole: a machine on which a hundred clusters begin and end at once is not the case it is for.
const listTries = 100

// whole repeats a listing of the kernel's until no link or address came or went while it ran: a list that was
// interrupted may lack what was there all the time, and on a machine with several clusters that is common.
func whole[T any](list func() (T, error)) (T, error) {
	var found T
	var err error
	for range listTries {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}
