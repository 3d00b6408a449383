package process

import (
	"bytes"
	"os"
	"strconv"
)

// passageCaps lists those of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH that this process may hand to a child: containers
// often lack the second, and the first is enough.
func passageCaps() []uintptr {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	permitted, bounding := capSet(status, "CapPrm:"), capSet(status, "CapBnd:")
	var caps []uintptr
	for _, c := range []uintptr{1, 2} { // linux/capability.h
		if permitted&bounding&(1<<c) != 0 {
			caps = append(caps, c)
		}
	}
	if permitted&bounding&(1<<1) == 0 {
		return nil // reading alone does not do
	}
	return caps
}

func capSet(status []byte, field string) uint64 {
	for line := range bytes.Lines(status) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			n, _ := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64)
			return n
		}
	}
	return 0
}
