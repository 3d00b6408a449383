package gateway

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// memoryBytes is how much memory this process may have: the least of what its cgroups and the machine have; 0: not known.
func memoryBytes() uint64 { return memoryBytesOf(os.DirFS("/")) }

func memoryBytesOf(root fs.FS) uint64 {
	read := func(name string) string {
		b, err := fs.ReadFile(root, name)
		if err != nil {
			return ""
		}
		return string(b)
	}
	least := uint64(0)
	take := func(n uint64, err error) {
		if err == nil && n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	for line := range strings.Lines(read("proc/meminfo")) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseUint(f[1], 10, 44)
			take(kib<<10, err)
		}
	}
	// 0::/a/b is of version 2, 4:memory:/a/b of version 1. A limit holds for all below it; one of the root is not to be seen from
	// within, where the path may also be that of another view of the tree: what is not there limits nothing.
	for line := range strings.Lines(read("proc/self/cgroup")) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var top, name string
		switch {
		case parts[0] == "0" && parts[1] == "":
			top, name = "sys/fs/cgroup", "memory.max"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			top, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for at := path.Join("/", parts[2]); ; at = path.Dir(at) {
			take(strconv.ParseUint(strings.TrimSpace(read(path.Join(top, at, name))), 10, 64)) // "max" is none
			if at == "/" {
				break
			}
		}
	}
	return least
}
