package im

// Verdict is what a reader of a log or copy does with the entry in front of it.
type Verdict int

// The verdicts.
const (
	Take  Verdict = iota // the next of the origin's log: apply it
	Skip                 // already taken (another writer to the copy, or an append that timed out but landed), or of a lower link generation: count it and go on
	Gap                  // past the next: alarm, ask the link again from Next, and go on reading until the next one comes
	Raise                // a hold marker of a higher link generation: readers ignore lower generations after it
)

// Follower is the rule by which every reader of a log or a copy takes the origin's records exactly once and in order
// (I8): only the next origin offset is taken. So two writers to a copy are harmless. It is a value: the caller stores
// it with what it applied.
type Follower struct {
	Next       int64  // the next origin offset to take
	Generation uint32 // the link generation; entries of a lower one are ignored
}

// See judges an entry by its origin offset and link generation (0 in the origin's own log) and advances past it when it
// is to be taken. Hold markers, which only ever stand in copies, are passed with marker true.
func (f *Follower) See(originOffset int64, generation uint32, marker bool) Verdict {
	if generation < f.Generation {
		return Skip
	}
	raised := generation > f.Generation
	f.Generation = generation // a record of a higher one proves that its marker stands before it, where this reader did not begin
	if marker {
		if raised {
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
