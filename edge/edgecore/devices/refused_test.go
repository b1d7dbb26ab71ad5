package devices

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tether-edge/tether/common/twin"
	"github.com/tether-edge/tether/edge/device"
	"github.com/tether-edge/tether/edge/mqtt"
)

// A mapper tries again what failed, and must not do so where that helps nothing.
func TestAMapperHearsWhichReportsAreRefusedForGood(t *testing.T) {
	for err, want := range map[error]codes.Code{
		device.ErrUnknown: codes.NotFound, device.ErrInvalid: codes.InvalidArgument, twin.ErrTooMany: codes.InvalidArgument, twin.ErrTooLong: codes.InvalidArgument,
		errors.New("the disk is full"): codes.Unknown,
	} {
		if got := status.Code(refused(fmt.Errorf("report: %w", err))); got != want {
			t.Errorf("%v: code %v, expected %v", err, got, want)
		}
	}
	if err := refused(nil); err != nil {
		t.Error(err)
	}
}

func TestAClientIsToldOnceThatItIsWrong(t *testing.T) {
	for err, want := range map[error]string{
		fmt.Errorf("%w: property %q: expected 1", device.ErrInvalid, "p"): `invalid: property "p": expected 1`,
		fmt.Errorf("device ns/p: %w: found 2", twin.ErrTooMany):           "invalid: device ns/p: too many properties: found 2",
	} {
		if got := answered(err); !errors.Is(got, mqtt.ErrInvalid) || got.Error() != want {
			t.Errorf("%v, expected %s", got, want)
		}
	}
}
