package regions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Log is the Kafka of the region that comes back.
type Log interface {
	Append(ctx context.Context, p im.Partition, entries []im.Entry) (first int64, err error)
	Bounds(ctx context.Context, ps []im.Partition) (map[im.Partition]im.Bounds, error)
	Read(ctx context.Context, p im.Partition, from int64, maxBytes int) ([]im.Entry, error)
}

// readBytes and appendBytes bound one read and one append. Kafka's default limit of a batch is 1 MiB.
const (
	readBytes   = 1 << 20
	appendBytes = 512 << 10
)

// Remainder is what a lost region has of its own log past the seals.
type Remainder struct {
	Former, Next im.Origin // the origin that was sealed, and the one under which the region goes on
	Sealed       []im.CopyState
	Log          Log
}

// Resent counts what became of a remainder.
type Resent struct {
	Records int64 // that were sent again, in this run or before
	Here    int64 // of them, in this run
	Dropped int64 // delivered and read cursors, routes and heartbeats: they are not sent again
	Gone    int64 // that retention removed before the region came back
}

// errOtherLog says that the own log is not the one that was sealed.
var errOtherLog = errors.New("it is not the log that was sealed: nothing of it is sent again")

// Resubmit appends the records past the seals to the log of the next epoch, past accept's checks: they were accepted.
// Their client_ids and stamps stay. Run again, it goes on after the last one that it finds there; a record that landed
// twice all the same is one message, since its id is the same. Nothing else may write to the next epoch's log meanwhile.
func (r *Remainder) Resubmit(ctx context.Context) (Resent, error) {
	var sum Resent
	for _, s := range r.Sealed {
		if !s.Sealed() {
			return sum, fmt.Errorf("%v is not sealed: declare the region lost first (antipode region lose)", s.Partition)
		}
		bounds, err := r.Log.Bounds(ctx, []im.Partition{s.Partition})
		if err != nil {
			return sum, err
		}
		b := bounds[s.Partition]
		copied, err := r.isCopy(ctx, s.Partition, b)
		if err != nil {
			return sum, err
		}
		if copied || b.End <= s.Next { // nothing was past the seal, or a former run went further than this
			continue
		}
		if err := r.same(ctx, s, b); err != nil {
			return sum, err
		}
		if family, _, _ := im.ParseTopic(s.Partition.Topic); family != im.FamilyMsg {
			sum.Dropped += b.End - s.Next
			continue
		}
		if err := r.resubmit(ctx, s, b, &sum); err != nil {
			return sum, fmt.Errorf("%v: %w", s.Partition, err)
		}
	}
	return sum, nil
}

// isCopy tells whether what stands under the former origin's name is a copy by now, or nothing.
func (r *Remainder) isCopy(ctx context.Context, p im.Partition, b im.Bounds) (bool, error) {
	if b.Start >= b.End {
		return true, nil
	}
	entries, err := r.Log.Read(ctx, p, b.Start, 1)
	if err != nil {
		return false, err
	}
	return len(entries) > 0 && wire.IsCopy(&entries[0]), nil
}

// same fails if the own log is not the one that was sealed.
func (r *Remainder) same(ctx context.Context, s im.CopyState, b im.Bounds) error {
	if !s.Checked || s.Next-1 < b.Start {
		return nil
	}
	entries, err := r.Log.Read(ctx, s.Partition, s.Next-1, readBytes)
	if err != nil {
		return err
	}
	if len(entries) == 0 || entries[0].Offset != s.Next-1 {
		return fmt.Errorf("%v: record %d cannot be read", s.Partition, s.Next-1)
	}
	if sum := wire.Checksum(&entries[0]); sum != s.Checksum {
		return fmt.Errorf("%v: record %d has checksum %016x here and %016x in other regions: %w", s.Partition, s.Next-1, sum, s.Checksum, errOtherLog)
	}
	return nil
}

// resubmit sends what one partition has past its seal.
func (r *Remainder) resubmit(ctx context.Context, s im.CopyState, b im.Bounds, sum *Resent) error {
	_, _, lane := laneOf(s.Partition.Topic)
	to := im.Partition{Topic: im.MsgTopic(r.Next, lane), Number: s.Partition.Number}
	done, err := r.done(ctx, to, sum)
	if err != nil {
		return err
	}
	from := max(s.Next, done+1)
	if from < b.Start {
		sum.Gone += b.Start - from
		from = b.Start
	}
	var batch []im.Entry
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if _, err := r.Log.Append(ctx, to, batch); err != nil {
			return err
		}
		sum.Records += int64(len(batch))
		sum.Here += int64(len(batch))
		batch, size = nil, 0
		return nil
	}
	for from < b.End {
		entries, err := r.Log.Read(ctx, s.Partition, from, readBytes)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("nothing can be read at %d, the log ends at %d", from, b.End)
		}
		for i := range entries {
			from = entries[i].Offset + 1
			if from > b.End {
				break
			}
			h := wire.DecodeHead(&entries[i])
			if h.Conversation == "" || h.Kind == "" { // keeps the log: it takes no seq, and the next epoch's has its own
				sum.Dropped++
				continue
			}
			e := wire.Resubmitted(entries[i], r.Next)
			n := wire.LinkEntrySize(&e)
			if size+n > appendBytes {
				if err := flush(); err != nil {
					return err
				}
			}
			batch, size = append(batch, e), size+n
		}
	}
	return flush()
}

func laneOf(topic string) (im.Family, im.Origin, im.Lane) {
	family, origin, err := im.ParseTopic(topic)
	if err == nil && family == im.FamilyMsg {
		for _, l := range im.Lanes {
			if im.MsgTopic(origin, l) == topic {
				return family, origin, l
			}
		}
	}
	return family, origin, ""
}

// done finds the last record that a former run sent again, by its offset in the former log; -1 if there is none.
func (r *Remainder) done(ctx context.Context, to im.Partition, sum *Resent) (int64, error) {
	bounds, err := r.Log.Bounds(ctx, []im.Partition{to})
	if err != nil {
		return 0, err
	}
	b, ok := bounds[to]
	if !ok {
		return 0, fmt.Errorf("%v does not exist: run antipode migrate", to)
	}
	last := int64(-1)
	for at := b.Start; at < b.End; {
		entries, err := r.Log.Read(ctx, to, at, readBytes)
		if err != nil {
			return 0, err
		}
		if len(entries) == 0 {
			return 0, fmt.Errorf("%v: nothing can be read at %d, the log ends at %d", to, at, b.End)
		}
		for i := range entries {
			at = entries[i].Offset + 1
			if former, ok := wire.FormerOffset(&entries[i]); ok {
				last = max(last, former)
				sum.Records++
			}
		}
	}
	return last, nil
}

// Source reads another region's copies.
type Source interface {
	// Read calls take with batches of the records [from, to) of a partition.
	Read(ctx context.Context, p im.Partition, from, to int64, take func(*wire.LinkBatch) error) error
}

// Unpack decodes a batch that a Source gave.
type Unpack func(p im.Partition, b *wire.LinkBatch) ([]im.Entry, error)

// Copy fills a partition of a sealed origin from another region's copy and ends it with the markers. Run again, it goes on
// from what is there.
func Copy(ctx context.Context, log Log, from Source, unpack Unpack, s im.CopyState, now im.Stamp) (copied int64, err error) {
	p := s.Partition
	f, err := follow(ctx, log, p)
	if err != nil || f.Sealed() {
		return 0, err
	}
	if family, _, _ := im.ParseTopic(p.Topic); family == im.FamilyRoute {
		f.Next = s.Next // its routes are those of a dead region: nobody needs them, and retention took most
	}
	if f.Next < s.Next {
		begun := f.Next
		err := from.Read(ctx, p, f.Next, s.Next, func(b *wire.LinkBatch) error {
			entries, err := unpack(p, b)
			if err != nil {
				return err
			}
			for chunk := range chunks(entries) {
				for i := range chunk {
					chunk[i] = wire.AsCopy(chunk[i], chunk[i].Offset, 0)
				}
				if _, err := log.Append(ctx, p, chunk); err != nil {
					return err
				}
				copied += int64(len(chunk))
			}
			return nil
		})
		if err != nil {
			return copied, err
		}
		if f, err = follow(ctx, log, p); err != nil {
			return copied, err
		}
		if f.Next < s.Next {
			return copied, fmt.Errorf("%v: filled from %d, it holds records up to %d of %d: run the same command again", p, begun, f.Next, s.Next)
		}
	}
	return copied, end(ctx, log, f, s, now)
}

// CopyMarkers is Copy where nobody reads the records, since views are seeded with what follows of them: it ends the partition
// alone.
func CopyMarkers(ctx context.Context, log Log, _ Source, _ Unpack, s im.CopyState, now im.Stamp) (copied int64, err error) {
	f, err := follow(ctx, log, s.Partition)
	if err != nil || f.Generation > 0 {
		return 0, err
	}
	return 0, end(ctx, log, f, s, now)
}

// end appends the markers.
func end(ctx context.Context, log Log, f im.Follower, s im.CopyState, now im.Stamp) error {
	origin, generation := s.Partition.Origin(), f.Generation+1
	_, err := log.Append(ctx, s.Partition, []im.Entry{
		wire.EncodeHold(origin, generation, now), wire.EncodeSeal(origin, generation, s.Next, now),
	})
	return err
}

// follow reads a copy from its start.
func follow(ctx context.Context, log Log, p im.Partition) (f im.Follower, err error) {
	bounds, err := log.Bounds(ctx, []im.Partition{p})
	if err != nil {
		return f, err
	}
	b, ok := bounds[p]
	if !ok {
		return f, fmt.Errorf("%v does not exist: run antipode migrate", p)
	}
	for at := b.Start; at < b.End; {
		entries, err := log.Read(ctx, p, at, readBytes)
		if err != nil {
			return f, err
		}
		if len(entries) == 0 {
			return f, fmt.Errorf("%v: nothing can be read at %d, the copy ends at %d", p, at, b.End)
		}
		for i := range entries {
			h := wire.DecodeHead(&entries[i])
			f.See(h.OriginOffset, h.Generation, h.Marker())
			at = entries[i].Offset + 1
		}
	}
	return f, nil
}

// chunks cuts entries into pieces that one append takes.
func chunks(entries []im.Entry) func(func([]im.Entry) bool) {
	return func(yield func([]im.Entry) bool) {
		for len(entries) > 0 {
			n, size := 0, 0
			for n < len(entries) && (n == 0 || size+wire.LinkEntrySize(&entries[n]) <= appendBytes) {
				size += wire.LinkEntrySize(&entries[n])
				n++
			}
			if !yield(entries[:n]) {
				return
			}
			entries = entries[n:]
		}
	}
}

// Agree returns the seals that all regions name, from those that were asked.
func Agree(o im.Origin, asked map[im.Region][]im.CopyState) ([]im.CopyState, error) {
	all := holdings{}
	for r, states := range asked {
		all[r] = make(map[im.Partition]im.CopyState, len(states))
		for _, s := range states {
			all[r][s.Partition] = s
		}
	}
	if err := errors.Join(all.comparable(), all.passed()); err != nil {
		return nil, err
	}
	if len(all) == 0 || !all.sealed() {
		return nil, fmt.Errorf("%s is not sealed in every region: declare it lost first (antipode region lose %s, in a region that goes on)", o, o.Region())
	}
	var seals []im.CopyState
	all.each(func(_ im.Partition, _ []im.Region, states []im.CopyState) {
		best := slices.IndexFunc(states, func(s im.CopyState) bool { return s.Checked })
		seals = append(seals, states[max(best, 0)])
	})
	return seals, nil
}

// OwnLog tells whether any partition of a topic of the former epoch is still the region's own log, not a copy of it.
func OwnLog(ctx context.Context, log Log, topic string, partitions int) (bool, error) {
	for n := range partitions {
		p := im.Partition{Topic: topic, Number: n}
		bounds, err := log.Bounds(ctx, []im.Partition{p})
		if err != nil {
			return false, err
		}
		if b := bounds[p]; b.Start < b.End {
			entries, err := log.Read(ctx, p, b.Start, 1)
			if err != nil {
				return false, err
			}
			if len(entries) > 0 && !wire.IsCopy(&entries[0]) {
				return true, nil
			}
		} else if b.End > 0 { // retention emptied it: what comes next would not have the first offset
			return true, nil
		}
	}
	return false, nil
}
