package imserver

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/antipode-im/antipode/im"
)

// Bounds of what is kept of one partition. What is over them is applied when it is read back.
const (
	aheadEntries = 1000
	aheadBytes   = 4 << 20
)

// ahead is the own log that remembers what this instance appended to it, so that apply need not wait until it is read back:
//
//	Append ──▶ log ──▶ offset ──▶ ahead ──▶ apply      at once
//	            └──────────▶ reader ──────▶ apply      the same again, passed over; what others appended
//
// An append is acknowledged when all in-sync replicas have it (acks=all), which is when a reader would get it: what comes
// from here is the log's. It is taken at its offset and no other, so that an instance which is not alone in appending, or
// lost an answer, waits for its reader as before.
type ahead struct {
	Log

	kept atomic.Int64    // entries, in all partitions
	wake []chan struct{} // by database; capacity 1: something was kept

	mu       sync.Mutex
	followed map[im.Partition]*run
}

// run is what is kept of one partition, by offset.
type run struct {
	entries []im.Entry
	bytes   int
}

func newAhead(log Log, databases int) *ahead {
	a := &ahead{Log: log, followed: map[im.Partition]*run{}}
	for range databases {
		a.wake = append(a.wake, make(chan struct{}, 1))
	}
	return a
}

// Append implements Log.
func (a *ahead) Append(ctx context.Context, p im.Partition, entries []im.Entry) (int64, error) {
	first, err := a.Log.Append(ctx, p, entries)
	if err == nil && first >= 0 {
		a.keep(p, first, entries)
	}
	return first, err
}

// keep notes entries that are in the log from first on.
func (a *ahead) keep(p im.Partition, first int64, entries []im.Entry) {
	a.mu.Lock()
	r := a.followed[p]
	if r == nil {
		a.mu.Unlock()
		return
	}
	for i, e := range entries {
		size := len(e.Key) + len(e.Value)
		if len(r.entries) >= aheadEntries || r.bytes+size > aheadBytes {
			break
		}
		e.Partition, e.Offset = p, first+int64(i)
		at, twice := slices.BinarySearchFunc(r.entries, e.Offset, byOffset)
		if twice {
			continue
		}
		r.entries = slices.Insert(r.entries, at, e)
		r.bytes += size
		a.kept.Add(1)
	}
	a.mu.Unlock()
	select {
	case a.wake[p.Number%len(a.wake)] <- struct{}{}:
	default:
	}
}

func byOffset(e im.Entry, offset int64) int {
	switch {
	case e.Offset < offset:
		return -1
	case e.Offset > offset:
		return 1
	}
	return 0
}

// follow has what is appended to partitions of a database kept, and forgets the others of that database.
func (a *ahead) follow(database int, partitions []im.Partition) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, r := range a.followed {
		if p.Number%len(a.wake) == database && !slices.Contains(partitions, p) {
			a.kept.Add(-int64(len(r.entries)))
			delete(a.followed, p)
		}
	}
	for _, p := range partitions {
		if a.followed[p] == nil {
			a.followed[p] = &run{}
		}
	}
}

// next gives up to most entries from an offset on, and forgets them and what is below.
func (a *ahead) next(p im.Partition, offset int64, most int) []im.Entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.followed[p]
	if r == nil || len(r.entries) == 0 {
		return nil
	}
	from, _ := slices.BinarySearchFunc(r.entries, offset, byOffset)
	to := from
	for to < len(r.entries) && to-from < most && r.entries[to].Offset == offset+int64(to-from) {
		to++
	}
	if to == 0 {
		return nil
	}
	given := slices.Clone(r.entries[from:to])
	for _, e := range r.entries[:to] {
		r.bytes -= len(e.Key) + len(e.Value)
	}
	a.kept.Add(-int64(to))
	r.entries = slices.Delete(r.entries, 0, to)
	return given
}
