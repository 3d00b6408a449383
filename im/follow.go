package im

import "math"

// Verdict is what a reader of a log or copy does with the entry in front of it.
type Verdict int

// The verdicts.
const (
	Take  Verdict = iota // the next of the origin's log: apply it
	Skip                 // already taken (another writer to the copy, or an append that timed out but landed), or of a lower link generation: count it and go on
	Gap                  // past the next: alarm, ask the link again from Next, and go on reading until the next one comes
	Raise                // a hold marker of a higher link generation: readers ignore lower generations after it
	Seal                 // the final marker, and everything below the seal was taken: nothing is ever taken after it
	Part                 // the final marker, but records past the seal were taken: what was derived has parted from the other regions and must be rebuilt
)

// SealedGeneration is the link generation of a reader that passed the final marker. No writer writes under it, so such a
// reader takes nothing more, and whoever stores the generation beside a position has stored the seal with it.
const SealedGeneration uint32 = math.MaxUint32

// HoldOffset is the origin offset that a hold marker has: no record has a negative one.
const HoldOffset int64 = -1

// SealOffset is the origin offset by which the final marker names the seal: one past the last record that counts.
func SealOffset(seal int64) int64 { return HoldOffset - 1 - seal }

// SealAt reads a marker's origin offset: the seal, or false where the marker only raises the generation.
func SealAt(markerOffset int64) (seal int64, final bool) {
	if markerOffset >= HoldOffset {
		return 0, false
	}
	return HoldOffset - 1 - markerOffset, true
}

// Follower is the rule by which every reader of a log or a copy takes the origin's records exactly once and in order
// (I8): only the next origin offset is taken. So two writers to a copy are harmless. It is a value: the caller stores
// it with what it applied.
type Follower struct {
	Next       int64  // the next origin offset to take
	Generation uint32 // the link generation; entries of a lower one are ignored
}

// Sealed tells whether the reader passed the final marker of an origin that was lost for good.
func (f *Follower) Sealed() bool { return f.Generation == SealedGeneration }

// See judges an entry by its origin offset and link generation (0 in the origin's own log) and advances past it when it
// is to be taken. Markers, which only ever stand in copies, are passed with marker true: those of HoldOffset raise the
// generation, those of a SealOffset are final.
//
// A final marker of a lower generation than the reader's is ignored as a record would be: whoever raised the generation
// since counts the copies anew. One that stands before records it counts (which nobody writes) is a gap.
func (f *Follower) See(originOffset int64, generation uint32, marker bool) Verdict {
	if generation < f.Generation || f.Sealed() {
		return Skip
	}
	raised := generation > f.Generation
	f.Generation = generation // a record of a higher one proves that its marker stands before it, where this reader did not begin
	if marker {
		seal, final := SealAt(originOffset)
		switch {
		case final && f.Next < seal:
			return Gap
		case final:
			f.Generation = SealedGeneration
			if f.Next > seal {
				return Part
			}
			return Seal
		case raised:
			return Raise
		}
		return Skip
	}
	switch {
	case originOffset < f.Next:
		return Skip
	case originOffset > f.Next:
		return Gap
	}
	f.Next++
	return Take
}
