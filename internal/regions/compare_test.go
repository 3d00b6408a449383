package regions

import (
	"context"
	"testing"

	"github.com/antipode-im/antipode/im"
)

// heldSums is an end that holds records, of which it knows the checksums, from an offset on.
type heldSums struct {
	first   int64
	records []uint64
	asked   *int
}

func (h heldSums) Digest(_ context.Context, _ im.Partition, from, to int64, piece int) (im.CopyDigest, error) {
	*h.asked++
	d := im.CopyDigest{First: h.first, Next: h.first + int64(len(h.records))}
	chain := uint64(0)
	for o := from; o < to; o++ {
		chain = chain*31 + h.records[o-h.first]
		if (o+1-from)%int64(piece) == 0 || o+1 == to {
			d.Sums = append(d.Sums, chain)
		}
	}
	return d, nil
}

// holed is one that lacks what no view needs.
type holed struct {
	heldSums
	from, to int64
}

func (h holed) Digest(ctx context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error) {
	d, err := h.heldSums.Digest(ctx, p, from, to, piece)
	if from < h.to && to > h.from {
		d.First, d.Sums = h.to, nil
	}
	return d, err
}

// TestComparePassesWhatIsNotNeeded: what a copy lacks for good is not compared, and what follows it is.
func TestComparePassesWhatIsNotNeeded(t *testing.T) {
	log := make([]uint64, 100_000)
	for i := range log {
		log[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	asked := 0
	copied := append([]uint64(nil), log...)
	p := im.Partition{Topic: "msg.eu.direct"}
	at := func() (int64, int64, error) {
		return Compare(t.Context(), heldSums{0, log, &asked}, holed{heldSums{0, copied, &asked}, 70_000, 90_000}, p)
	}
	if compared, bad, err := at(); err != nil || bad >= 0 || compared != 65_536+10_000 {
		t.Errorf("%d compared, %d differs, %v", compared, bad, err)
	}
	copied[95_000]++
	if _, bad, err := at(); err != nil || bad != 95_000 {
		t.Errorf("%d differs, %v; want 95000", bad, err)
	}
}

// TestCompareNamesTheFirstThatDiffers among what both ends hold, with few questions.
func TestCompareNamesTheFirstThatDiffers(t *testing.T) {
	const n = 200_000
	log := make([]uint64, n)
	for i := range log {
		log[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	asked := 0
	for _, c := range []struct {
		name          string
		first         int64 // of the copy
		until         int64
		change        []int64
		compared, bad int64
	}{
		{"equal", 0, n, nil, n, -1},
		{"the copy is behind", 0, n - 5, nil, n - 5, -1},
		{"the copy lost its beginning", 70_001, n, nil, n - 70_001, -1},
		{"the first", 0, n, []int64{0}, 0, 0},
		{"two in the middle", 0, n, []int64{123_457, 123_456}, 65536, 123_456},
		{"the last", 3, n, []int64{n - 1}, 0, n - 1},
		{"before what the copy holds", 100, n, []int64{50}, n - 100, -1},
		{"an empty copy", 0, 0, nil, 0, -1},
	} {
		full := append([]uint64(nil), log[:c.until]...)
		for _, at := range c.change {
			full[at]++
		}
		asked = 0
		compared, bad, err := Compare(t.Context(), heldSums{0, log, &asked}, heldSums{c.first, full[c.first:], &asked}, im.Partition{Topic: "msg.eu.direct"})
		if err != nil || bad != c.bad {
			t.Errorf("%s: %d differs, %v; want %d", c.name, bad, err, c.bad)
		}
		if bad < 0 && compared != c.compared {
			t.Errorf("%s: %d were compared, want %d", c.name, compared, c.compared)
		}
		if asked > 2+2*4+2*3 {
			t.Errorf("%s: %d questions", c.name, asked)
		}
	}
	longer := append(append([]uint64(nil), log...), 1)
	if _, bad, err := Compare(t.Context(), heldSums{0, log, &asked}, heldSums{0, longer, &asked}, im.Partition{}); err != nil || bad != n {
		t.Errorf("a copy of more than the log: %d, %v", bad, err)
	}
}
