package gateway

import (
	"runtime"
	"sync"
	"time"
)

// loadMeter turns counters into rates, second by second.
type loadMeter struct {
	mu        sync.Mutex
	at        time.Time
	bytes     uint64
	busy      time.Duration
	perSecond float64
	cpu       float64
	total     func() uint64 // bytes so far
}

// smoothing is the weight of the newest second.
const smoothing = 0.3

// sample is called about once a second.
func (m *loadMeter) sample(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bytes, busy := m.total(), processTime()
	if passed := now.Sub(m.at); !m.at.IsZero() && passed > 0 {
		m.perSecond += smoothing * (float64(bytes-m.bytes)/passed.Seconds() - m.perSecond)
		share := float64(busy-m.busy) / float64(passed) / float64(runtime.NumCPU())
		m.cpu += smoothing * (min(1, max(0, share)) - m.cpu)
	}
	m.at, m.bytes, m.busy = now, bytes, busy
}

func (m *loadMeter) read() (bytesPerSecond uint64, cpu float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(m.perSecond), m.cpu
}
