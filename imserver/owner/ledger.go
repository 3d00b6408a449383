package owner

import (
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
)

// Batch is what is committed at once: one part for each partition.
type Batch struct {
	Number uint64 // grows by one from batch to batch
	Parts  []view.Part
	Rows   int
	index  map[im.Partition]int // into Parts
}

// add collects a piece behind those of the same partition.
func (b *Batch) add(piece view.Part) {
	b.Rows += len(piece.Records) + len(piece.Cursors)
	i, ok := b.index[piece.Partition]
	if !ok {
		b.index[piece.Partition] = len(b.Parts)
		b.Parts = append(b.Parts, piece)
		return
	}
	p := &b.Parts[i]
	p.To = piece.To
	p.Records, p.Cursors = append(p.Records, piece.Records...), append(p.Cursors, piece.Cursors...)
}

// Ledger tells how far the partitions of one database are for their owner: what the store has, which batch is on its way
// there, and what was numbered behind that. It is not safe for concurrent use.
type Ledger struct {
	stored    map[im.Partition]int64 // next of the store, as of the last batch that landed
	flying    *Batch
	collected *Batch
	batches   uint64
}

// NewLedger returns one of no partitions.
func NewLedger() *Ledger { return &Ledger{stored: map[im.Partition]int64{}} }

// Begin says where the store is in a partition that was taken over.
func (l *Ledger) Begin(p im.Partition, next int64) { l.stored[p] = next }

// Forget drops a partition that went to another owner.
func (l *Ledger) Forget(p im.Partition) { delete(l.stored, p) }

// Void drops what was not committed: a fence says that it was numbered from what is not so any more.
func (l *Ledger) Void() { l.flying, l.collected = nil, nil }

// Number is that of the batch which takes what is numbered now.
func (l *Ledger) Number() uint64 {
	if l.collected == nil {
		l.batches++
		l.collected = &Batch{Number: l.batches, index: map[im.Partition]int{}}
	}
	return l.collected.Number
}

// Collect takes a part that was numbered. Number was asked before.
func (l *Ledger) Collect(p view.Part) { l.collected.add(p) }

// Collected is what waits to be committed, nil if nothing does.
func (l *Ledger) Collected() *Batch { return l.collected }

// Flying is the batch that is being committed, nil if none is.
func (l *Ledger) Flying() *Batch { return l.flying }

// Launch sends off what was collected. None may be flying.
func (l *Ledger) Launch() *Batch {
	l.flying, l.collected = l.collected, nil
	return l.flying
}

// Land says what became of the batch that was flying: it is in the store, or it is not.
func (l *Ledger) Land(committed bool) {
	if committed {
		for i := range l.flying.Parts {
			p := &l.flying.Parts[i]
			l.stored[p.Partition] = p.To.Next
		}
	}
	l.flying = nil
}

// Check compares where the store said that it was, when it told facts, with where it must be. Facts of another position
// are no use: numbered from them, records would be delivered under wrong seqs. They come from before or after the
// batch that is flying.
func (l *Ledger) Check(partitions []im.Partition, next map[im.Partition]int64) error {
	for _, p := range partitions {
		at := next[p]
		if at == l.stored[p] {
			continue
		}
		if l.flying == nil {
			return view.ErrFenced
		}
		if i, ok := l.flying.index[p]; !ok || at != l.flying.Parts[i].To.Next {
			return view.ErrFenced
		}
	}
	return nil
}
