package wheel

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// model is the deliberately dumb second version.
type model map[int]int64 // due tick by timer

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const tick = time.Millisecond
		start := time.UnixMilli(1_000_000)
		w := newAt(tick, start)
		// Anywhere in the wheel's life, turns of every level included.
		w.now = rapid.SampledFrom([]int64{0, 1, 63, 64, 4095, 262_143, 16_777_215, 1<<30 - 1, 1<<36 - 1, 1<<36 + 5, 1 << 40}).Draw(t, "now")
		timers := make([]Timer, 20)
		want := model{}
		find := func(at *Timer) int {
			for i := range timers {
				if at == &timers[i] {
					return i
				}
			}
			return -1
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				i := rapid.IntRange(0, len(timers)-1).Draw(t, "timer")
				distance := rapid.Int64Range(-3, 1<<rapid.IntRange(1, 38).Draw(t, "bits")).Draw(t, "distance")
				w.Set(&timers[i], start.Add(time.Duration(w.now+distance)*tick), func(*Timer) {})
				want[i] = max(w.now+distance, w.now+1)
			},
			"stop": func(t *rapid.T) {
				i := rapid.IntRange(0, len(timers)-1).Draw(t, "timer")
				w.Stop(&timers[i])
				delete(want, i)
			},
			"advance": func(t *rapid.T) {
				to := w.now + rapid.Int64Range(0, 1<<rapid.IntRange(1, 37).Draw(t, "bits")).Draw(t, "ticks")
				last := int64(0)
				for _, timer := range w.advance(to) {
					i := find(timer)
					due, ok := want[i]
					if !ok || due > to || due < last {
						t.Fatalf("timer %d fired at %d, is due at %d (%v), the last was due at %d", i, to, due, ok, last)
					}
					last = due
					delete(want, i)
				}
				for i, due := range want {
					if due <= to {
						t.Fatalf("timer %d, due at %d, did not fire by %d", i, due, to)
					}
				}
			},
			"": func(t *rapid.T) {
				if w.count != len(want) {
					t.Fatalf("counts %d, are %d", w.count, len(want))
				}
				if next := w.nextTick(); len(want) > 0 {
					for _, due := range want {
						if next > due {
							t.Fatalf("would wait until %d past %d", next, due)
						}
					}
				} else if next != never {
					t.Fatalf("waits for %d with nothing set", next)
				}
			},
		})
	})
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(10 * time.Millisecond)
		done := make(chan struct{})
		go w.Run(done)
		defer close(done)
		began := time.Now()
		fired := make(chan time.Duration, 10)
		var timers [4]Timer
		note := func(*Timer) { fired <- time.Since(began) }
		w.Set(&timers[0], began.Add(time.Hour), note)
		w.Set(&timers[1], began.Add(25*time.Second), note) // nearer than what is waited for
		w.Set(&timers[2], began.Add(time.Second), note)
		w.Set(&timers[2], began.Add(2*time.Second), note) // moved
		w.Set(&timers[3], began.Add(3*time.Second), note)
		w.Stop(&timers[3])
		for _, want := range []time.Duration{2 * time.Second, 25 * time.Second, time.Hour} {
			got := <-fired
			if got < want || got > want+20*time.Millisecond {
				t.Errorf("fired after %v, want %v", got, want)
			}
		}
	})
}

// The benchmarks compare one operation at growing numbers of timers, with what else could hold them.

var sizes = []int{1_000, 100_000, 1_000_000}

func times(n int) []time.Time {
	now := time.Now()
	all := make([]time.Time, n)
	for i := range all {
		all[i] = now.Add(time.Minute + time.Duration(rand.Int64N(int64(time.Minute))))
	}
	return all
}

func BenchmarkReset(b *testing.B) {
	for _, n := range sizes {
		at := times(n)
		b.Run(fmt.Sprintf("wheel/timers=%d", n), func(b *testing.B) {
			w := New(10 * time.Millisecond)
			timers := make([]Timer, n)
			for i := range timers {
				w.Set(&timers[i], at[i], nil)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				w.Set(&timers[i*7919%n], at[i%n], nil)
			}
		})
		b.Run(fmt.Sprintf("heap/timers=%d", n), func(b *testing.B) {
			var h timerHeap
			timers := make([]heapTimer, n)
			for i := range timers {
				timers[i].at = at[i]
				heap.Push(&h, &timers[i])
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				t := &timers[i*7919%n]
				t.at = at[i%n]
				heap.Fix(&h, t.index)
			}
		})
		b.Run(fmt.Sprintf("AfterFunc/timers=%d", n), func(b *testing.B) {
			timers := make([]*time.Timer, n)
			for i := range timers {
				timers[i] = time.AfterFunc(time.Until(at[i]), func() {})
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				timers[i*7919%n].Reset(time.Minute + time.Duration(i%n)*60*time.Microsecond)
			}
			for _, t := range timers {
				t.Stop()
			}
		})
	}
}

// BenchmarkSetAndExpire sets n timers and lets them all expire: one operation is one timer.
func BenchmarkSetAndExpire(b *testing.B) {
	for _, n := range sizes {
		due := make([]int64, n)
		for i := range due {
			due[i] = 1 + rand.Int64N(12_000)
		}
		b.Run(fmt.Sprintf("wheel/timers=%d", n), func(b *testing.B) {
			timers := make([]Timer, n)
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				start := time.Now()
				w := newAt(10*time.Millisecond, start)
				for i := range timers {
					w.Set(&timers[i], start.Add(time.Duration(due[i])*10*time.Millisecond), nil)
				}
				fired := 0
				for tick := int64(1); tick <= 12_000; tick++ {
					fired += len(w.advance(tick))
				}
				if fired != n {
					b.Fatal(fired)
				}
			}
		})
		b.Run(fmt.Sprintf("heap/timers=%d", n), func(b *testing.B) {
			timers := make([]heapTimer, n)
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				start := time.Now()
				var h timerHeap
				for i := range timers {
					timers[i].at = start.Add(time.Duration(due[i]) * 10 * time.Millisecond)
					heap.Push(&h, &timers[i])
				}
				for len(h) > 0 {
					heap.Pop(&h)
				}
			}
		})
		b.Run(fmt.Sprintf("AfterFunc/timers=%d", n), func(b *testing.B) { // all due within 100 ms: its expiry cannot be hurried
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				var fired atomic.Int64
				over := make(chan struct{})
				for i := range n {
					time.AfterFunc(time.Duration(due[i])*100*time.Millisecond/12_000, func() {
						if fired.Add(1) == int64(n) {
							close(over)
						}
					})
				}
				<-over
			}
		})
	}
}

type heapTimer struct {
	at    time.Time
	index int
}

type timerHeap []*heapTimer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*heapTimer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}
