package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// hertz is the unit of /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on.
const hertz = 100

// cpu is what processes have used, seconds of one core.
func cpu(ps []*running) (seconds float64) {
	for _, p := range ps {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err != nil {
			return math.NaN()
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime
			ticks, _ := strconv.ParseFloat(f, 64)
			seconds += ticks / hertz
		}
	}
	return seconds
}

// peak is the largest resident memory of any of the processes since it started, MiB.
func peak(ps []*running) (mib float64) {
	for _, p := range ps {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
		if err != nil {
			return math.NaN()
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(v)[0], 64)
				mib = max(mib, kib/1024)
			}
		}
	}
	return mib
}

// times collects durations.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, d)
}

// percentile returns a quantile in milliseconds; NaN of nothing.
func (t *times) percentile(q float64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return math.NaN()
	}
	slices.Sort(t.all)
	i := min(int(q*float64(len(t.all))), len(t.all)-1)
	return float64(t.all[i]) / float64(time.Millisecond)
}
