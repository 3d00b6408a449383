package view

import (
	"errors"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// ErrForeignLog means that an entry names another log than the one the view was derived from: the log was recreated.
var ErrForeignLog = errors.New("another log's name")

// ErrPastSeal means that the view was derived from records that do not count: their origin was lost for good and sealed
// below them.
var ErrPastSeal = errors.New("the origin was lost and its log sealed below what was applied")

// Tail is where a reader stands in one partition, ahead of the view by what it gathered since the last Cut.
type Tail struct {
	log      log
	follower im.Follower
	from     int64 // what the view has, or will when the last Cut is committed
	at       Position
	gap      bool     // entries past the next were seen, and the next did not come yet
	last     im.Entry // taken; unsummed: it is not in at's checksum yet
	unsummed bool
	records  []Record
	cursors  []wire.Cursors
	errs     []error
}

// NewTail continues from a stored position (the zero one of a partition never read). count is how many partitions the
// topic has.
func NewTail(at Position, count int) (*Tail, error) {
	l, err := newLog(at.Partition, count)
	if err != nil {
		return nil, err
	}
	return &Tail{log: l, follower: im.Follower{Next: at.Next, Generation: at.Generation}, from: at.Next, at: at}, nil
}

// At is where the tail is, what was gathered included. Its checksum is not made: see Summed.
func (t *Tail) At() Position { return t.at }

// Summed is At with the checksum of the last record.
func (t *Tail) Summed() Position {
	if t.unsummed {
		t.at.Checksum, t.unsummed, t.last = Checksum(&t.last), false, im.Entry{}
	}
	return t.at
}

// Checksum is what a position says of its last record.
func Checksum(e *im.Entry) uint32 { return uint32(wire.Checksum(e)) }

// Gap tells whether the tail waits for an entry that later ones overtook.
func (t *Tail) Gap() bool { return t.gap }

// Pending is how many rows were gathered since the last Cut.
func (t *Tail) Pending() int { return len(t.records) + len(t.cursors) }

// Room makes room for rows that are about to be taken.
func (t *Tail) Room(rows int) {
	switch t.log.family {
	case im.FamilyMsg:
		t.records = slices.Grow(t.records, rows)
	case im.FamilyRead:
		t.cursors = slices.Grow(t.cursors, rows)
	}
}

// Take looks at the next entry of the partition, as it stands in the log or the copy, and gathers what it says. After
// an error (ErrForeignLog, ErrPastSeal) the tail must not be used on.
func (t *Tail) Take(e *im.Entry) (im.Verdict, error) {
	h := wire.DecodeHead(e)
	verdict := t.follower.See(h.OriginOffset, h.Generation, h.Marker())
	t.at.Generation = t.follower.Generation
	switch verdict {
	case im.Part:
		return verdict, fmt.Errorf("%v at %d: %w: this view has records up to %d", e.Partition, e.Offset, ErrPastSeal, t.at.Next)
	case im.Gap:
		t.gap = true // Local stays before the gap: whoever starts from here sees these entries again
		return verdict, nil
	case im.Take:
		t.gap = false
		t.at.Next = t.follower.Next
		t.last, t.unsummed = *e, true
	}
	if !t.gap {
		t.at.Local = e.Offset + 1
	}
	if verdict != im.Take {
		return verdict, nil
	}
	var err error
	switch t.log.says(&h) {
	case naming:
		var n im.LogName
		if n, err = wire.DecodeLogName(e); err == nil {
			if err := t.name(e, n); err != nil {
				return verdict, err
			}
			t.at.Watermark = max(t.at.Watermark, readable(h.Stamp))
		}
	case counting:
		t.records, err = t.log.record(t.records, e, &h)
	case marking:
		t.cursors, err = t.log.mark(t.cursors, e, &h)
	}
	if err != nil && len(t.errs) < 8 {
		t.errs = append(t.errs, err)
	}
	return verdict, nil
}

// name compares the name that an entry gives the log with what is known of it.
func (t *Tail) name(e *im.Entry, n im.LogName) error {
	if n.Origin != t.log.origin {
		return fmt.Errorf("%v at %d: %w: it belongs to origin %q", e.Partition, e.Offset, ErrForeignLog, n.Origin)
	}
	if t.at.Log.IsZero() {
		t.at.Log = n.ID
	}
	if t.at.Log != n.ID {
		return fmt.Errorf("%v at %d: %w: %v, but what was applied so far came from %v", e.Partition, e.Offset, ErrForeignLog,
			n, im.LogName{Origin: t.log.origin, ID: t.at.Log})
	}
	return nil
}

// Moved tells whether there is anything to commit: rows, or a position that only moved on.
func (t *Tail) Moved() bool { return t.at.Next != t.from }

// Cut returns what was gathered as a part and starts the next. Records have no seq yet: see Number.
func (t *Tail) Cut() Part {
	p := Part{Partition: t.at.Partition, From: t.from, To: t.Summed(), Records: t.records, Cursors: t.cursors}
	t.from, t.records, t.cursors = t.at.Next, nil, nil
	return p
}

// Errors returns, once, why values did not decode: the first few since it was last asked.
func (t *Tail) Errors() []error {
	errs := t.errs
	t.errs = nil
	return errs
}

// Number gives records their seqs, in log order: one more than the last of their stream. last tells a stream's last seq
// before these records and is asked once a stream.
func Number(records []Record, last func(HeadKey) uint64) {
	heads := map[HeadKey]uint64{}
	var k HeadKey
	var seq uint64
	for i := range records {
		r := &records[i]
		if next := r.Stream(); next != k { // a stream's records often stand together
			heads[k] = seq
			head, known := heads[next]
			if !known {
				head = last(next)
			}
			k, seq = next, head
		}
		seq++
		r.Place.Seq = seq
	}
}
