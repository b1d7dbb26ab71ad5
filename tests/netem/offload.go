package netem

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ifreq is struct ifreq of the kernel for SIOCETHTOOL: a name, a pointer, and the rest of the union.
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ command, value uint32 }

// DisableOffload makes a link of the calling thread's network namespace send and receive real packets: checksums
// filled in, none larger than the link's MTU. The stack does that work instead of the (virtual) device.
func DisableOffload(link string) error {
	// Without the checksum the kernel takes segmentation away from the device too.
	if err := ethtool(link, unix.ETHTOOL_STXCSUM, 0); err != nil {
		return fmt.Errorf("switch transmit checksum offload of %s off: %w", link, err)
	}
	if err := ethtool(link, unix.ETHTOOL_SGRO, 0); err != nil {
		return fmt.Errorf("switch generic receive offload of %s off: %w", link, err)
	}
	return nil
}

// ethtool sets a value of a link.
func ethtool(link string, command, value uint32) error {
	if len(link) >= unix.IFNAMSIZ {
		return fmt.Errorf("expected a name of at most %d bytes", unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	argument := ethtoolValue{command: command, value: value}
	request := ifreq{data: unsafe.Pointer(&argument)}
	copy(request.name[:], link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}
