package routes

import "github.com/antipode-im/antipode/im"

// Found is what a batch of lookups found. It may be used again and again, for one batch at a time.
type Found struct {
	targets []Target
	spans   [][2]int32 // of each uid, in targets
	shards  []int32    // of each uid
	order   []int32    // uids by shard
	starts  []int32    // of each shard, in order
	hashes  []uint32   // of the shard in hand: of each uid
	slots   []uint64   // and what its first slot holds
	touched uint64
}

// Of returns the targets of the i-th uid.
func (f *Found) Of(i int) []Target { return f.targets[f.spans[i][0]:f.spans[i][1]] }

// TargetsOf finds the targets of many users. A lookup is little but two waits for memory that no cache holds: here those of
// a partition's users are under way together, and a partition is locked once.
func (t *Table) TargetsOf(f *Found, uids []im.UID, now im.Stamp) {
	f.targets = f.targets[:0]
	f.spans = sized(f.spans, len(uids))
	f.shards = sized(f.shards, len(uids))
	f.order = sized(f.order, len(uids))
	f.starts = sized(f.starts, len(t.shards)+1)
	clear(f.starts)
	for i, uid := range uids {
		n := t.Number(uid)
		f.shards[i] = int32(n)
		f.starts[n+1]++
	}
	for n := range t.shards {
		f.starts[n+1] += f.starts[n]
	}
	for i := range uids {
		n := f.shards[i]
		f.order[f.starts[n]] = int32(i)
		f.starts[n]++
	}
	for from := 0; from < len(uids); {
		n := f.shards[f.order[from]]
		to := int(f.starts[n])
		t.targetsIn(f, &t.shards[n], f.order[from:to], uids, now)
		from = to
	}
}

func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (t *Table) targetsIn(f *Found, s *shard, mine []int32, uids []im.UID, now im.Stamp) {
	f.hashes, f.slots = sized(f.hashes, len(mine)), sized(f.slots, len(mine))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for k, i := range mine {
		f.hashes[k] = s.hash(uids[i])
	}
	if len(s.slots) > 0 && len(mine) > 1 {
		for k, hash := range f.hashes {
			f.slots[k] = s.slots[home(hash, len(s.slots))]
		}
		for _, v := range f.slots { // mostly the row that is looked for; what is read of it may stand in two cache lines
			if v != 0 {
				r := s.at(ref(v))
				f.touched += uint64(r[rowConn]) + uint64(r[rowHead])
			}
		}
	}
	for k, i := range mine {
		from := len(f.targets)
		_, first, _ := s.find(uids[i], f.hashes[k])
		f.targets = t.targets(f.targets, s, first, now)
		f.spans[i] = [2]int32{int32(from), int32(len(f.targets))}
	}
}
