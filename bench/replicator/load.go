package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/internal/await"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// stamps makes records: each has a number of its own and the time at which it was due, and text of words as people write.
type stamps struct {
	made atomic.Uint64
}

var syllables = [...]string{"an", "ti", "po", "de", "re", "gi", "on", "mes", "sa", "ge", "we", "are", "the", "lu", "ma", "ko", "sen", "ri", "ta", "vo"}

// text returns size bytes of made-up words.
func text(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+8)
	for len(b) < size {
		for range 1 + r.IntN(4) {
			b = append(b, syllables[r.IntN(len(syllables))]...)
		}
		b = append(b, ' ')
	}
	return b[:size]
}

// entry makes a record of a conversation as an imserver would append it, its text led by number and time.
func (s *stamps) entry(r *rand.Rand, size int, due time.Time) (number uint64, e im.Entry) {
	number = s.made.Add(1)
	body := text(r, max(size, 16))
	binary.BigEndian.PutUint64(body, number)
	binary.BigEndian.PutUint64(body[8:], uint64(due.UnixNano()))
	a, b := im.UID(fmt.Sprintf("u%05d", r.IntN(50_000))), im.UID(fmt.Sprintf("v%05d", r.IntN(50_000)))
	return number, wire.EncodeRecord(&im.Record{
		ID:   im.ID{Conversation: im.Conversation("d:" + string(a) + ":" + string(b)), Sender: a, ClientID: im.NewUUID(due)},
		Kind: im.KindMessage, Version: im.CurrentVersion, Place: im.Place{Stamp: im.StampAt(due), Origin: "eu"}, Body: body,
	})
}

// decode returns number and time of a record; false if it is none of ours.
func decode(e *im.Entry) (number uint64, due time.Time, ok bool) {
	h := wire.DecodeHead(e)
	if h.Kind != im.KindMessage {
		return 0, time.Time{}, false
	}
	r, err := wire.DecodeRecord(e, h)
	if err != nil || len(r.Body) < 16 {
		return 0, time.Time{}, false
	}
	return binary.BigEndian.Uint64(r.Body), time.Unix(0, int64(binary.BigEndian.Uint64(r.Body[8:]))), true
}

// fill appends n records to eu's log, in batches as a busy imserver appends them.
func (w *world) fill(ctx context.Context, n int) error {
	const together = 100
	var wg sync.WaitGroup
	errs := make([]error, partitions)
	for p := range partitions {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(p), 1))
			for left := n / partitions; left > 0 && errs[p] == nil; left -= together {
				entries := make([]im.Entry, min(left, together))
				for i := range entries {
					_, entries[i] = w.stamps.entry(r, w.o.size, time.Now())
				}
				_, errs[p] = w.logs["eu"].Append(ctx, im.Partition{Topic: source(), Number: p}, entries)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pace appends single records at a rate for a time, each when it is due, whatever became of those before, and tells each
// that was acknowledged.
func (w *world) pace(ctx context.Context, rate int, length time.Duration, acked func(number uint64)) error {
	ctx, cancel := context.WithTimeout(ctx, length+patience)
	defer cancel()
	const tick = time.Millisecond
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	r := rand.New(rand.NewPCG(7, uint64(time.Now().UnixNano())))
	began := time.Now()
	for sent := 0; time.Since(began) < length && ctx.Err() == nil; {
		due := 1 + int(time.Since(began).Seconds()*float64(rate))
		for ; sent < due; sent++ {
			number, e := w.stamps.entry(r, w.o.size, began.Add(time.Duration(float64(sent)/float64(rate)*float64(time.Second))))
			p := im.Partition{Topic: source(), Number: r.IntN(partitions)}
			wg.Go(func() {
				if _, err := w.logs["eu"].Append(ctx, p, []im.Entry{e}); err != nil {
					failed.Store(&err)
					return
				}
				acked(number)
			})
		}
		if await.Moment(ctx, time.Now().Add(tick)) != nil {
			break
		}
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

// ends is how many offsets a topic has.
func (w *world) ends(ctx context.Context, r im.Region, topic string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ps := make([]im.Partition, partitions)
	for i := range ps {
		ps[i] = im.Partition{Topic: topic, Number: i}
	}
	bounds, err := w.logs[r].Bounds(ctx, ps)
	sum := int64(0)
	for _, b := range bounds {
		sum += b.End
	}
	return sum, err
}

// follow calls f with each of a topic's records that comes from now on, or from its beginning, until ctx ends.
func (w *world) follow(ctx context.Context, r im.Region, topic string, begin bool, f func(e *im.Entry)) error {
	ps := make([]im.Partition, partitions)
	for i := range ps {
		ps[i] = im.Partition{Topic: topic, Number: i}
	}
	bounds, err := w.logs[r].Bounds(ctx, ps)
	if err != nil {
		return err
	}
	from := map[im.Partition]int64{}
	for p, b := range bounds {
		from[p] = b.End
		if begin {
			from[p] = b.Start
		}
	}
	reader := w.logs[r].NewReader(from)
	go func() {
		defer reader.Close()
		for ctx.Err() == nil {
			batches, _ := reader.Poll(ctx)
			for _, b := range batches {
				for i := range b.Entries {
					f(&b.Entries[i])
				}
			}
		}
	}()
	return nil
}
