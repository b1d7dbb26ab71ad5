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
	if len(link) >= unix.IFNAMSIZ {
		return fmt.Errorf("switch offloads of %s off: expected a name of at most %d bytes", link, unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch offloads of %s off: %w", link, err)
	}
	defer unix.Close(fd)
	// Segmentation first: it needs checksums of the device.
	for _, c := range []struct {
		name string
		set  uint32
	}{
		{"TCP segmentation", unix.ETHTOOL_STSO},
		{"generic segmentation", unix.ETHTOOL_SGSO},
		{"generic receive", unix.ETHTOOL_SGRO},
		{"scatter-gather", unix.ETHTOOL_SSG},
		{"transmit checksum", unix.ETHTOOL_STXCSUM},
	} {
		value := ethtoolValue{command: c.set}
		request := ifreq{data: unsafe.Pointer(&value)}
		copy(request.name[:], link)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno != 0 {
			return fmt.Errorf("switch %s offload of %s off: %w", c.name, link, errno)
		}
	}
	return nil
}
