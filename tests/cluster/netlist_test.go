package cluster

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAnInterruptedListingIsRepeated(t *testing.T) {
	tries := 0
	found, err := whole(func() (int, error) {
		if tries++; tries < 3 {
			return 1, netlink.ErrDumpInterrupted
		}
		return 2, nil
	})
	if found != 2 || err != nil || tries != 3 {
		t.Errorf("expected the third listing, found %d, %v after %d tries", found, err, tries)
	}
	tries = 0
	if _, err := whole(func() (int, error) { tries++; return 0, netlink.ErrDumpInterrupted }); err == nil || tries != listTries {
		t.Errorf("expected an error after %d tries, found %v after %d", listTries, err, tries)
	}
}
