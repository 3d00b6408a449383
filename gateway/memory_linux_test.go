package gateway

import (
	"testing"
	"testing/fstest"
)

func TestMemoryOfProcess(t *testing.T) {
	machine := &fstest.MapFile{Data: []byte("MemTotal:       4096 kB\nMemFree:         1 kB\n")}
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, test := range map[string]struct {
		files fstest.MapFS
		want  uint64
	}{
		"nothing is known": {fstest.MapFS{}, 0},
		"no cgroup":        {fstest.MapFS{"proc/meminfo": machine}, 4096 << 10},
		"version 2": {fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/pods/one\n"),
			"sys/fs/cgroup/pods/one/memory.max": file("max\n"), "sys/fs/cgroup/pods/memory.max": file("1000000\n"),
		}, 1_000_000},
		"version 2 seen from within": {fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("0::/\n"), "sys/fs/cgroup/memory.max": file("2000000\n"),
		}, 2_000_000},
		"version 1 without a limit": {fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("4:memory:/a\n1:cpu:/b\n0::/\n"),
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": file("9223372036854771712\n"),
		}, 4096 << 10},
		"version 1 seen from within": {fstest.MapFS{
			"proc/meminfo": machine, "proc/self/cgroup": file("4:cpu,memory:/not/here\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": file("3000000\n"),
		}, 3_000_000},
		"what is no number": {fstest.MapFS{"proc/meminfo": file("MemTotal: much\n"), "proc/self/cgroup": file("what\n\n")}, 0},
	} {
		if got := memoryBytesOf(test.files); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// Unless told otherwise a gateway refuses newcomers before it is killed for its memory.
func TestMemoryLimitByDefault(t *testing.T) {
	all := memoryBytes()
	if all < 64<<20 {
		t.Fatalf("this process may have %d bytes", all)
	}
	if got := (Config{}).Defaults().MaxMemory; got < int(all/100*80) || got > int(all/100*90) {
		t.Errorf("the limit is %d of %d", got, all)
	}
	if got := (Config{MaxMemory: -1}).Defaults().MaxMemory; got != -1 {
		t.Errorf("without a limit: %d", got)
	}
	r := newRig(t)
	if r.g.cfg.MaxMemory <= 0 || r.g.exhausted() != "" {
		t.Errorf("with the default, %d, it says %q", r.g.cfg.MaxMemory, r.g.exhausted())
	}
}
