package regions

import (
	"context"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Digester tells what a stretch of a region's log or copy comes to.
type Digester interface {
	Digest(ctx context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error)
}

// compareRecords is how many records are compared with one question to each end.
const compareRecords = 1 << 16

// Compare finds the first record of a copy that differs from the log, -1 if there is none. What one end does not hold any
// more, or not yet, is not compared.
func Compare(ctx context.Context, log, copied Digester, p im.Partition) (compared, differs int64, err error) {
	b, err := copied.Digest(ctx, p, 0, 0, 1) // first: the log goes on meanwhile, and the copy with it
	if err != nil {
		return 0, -1, err
	}
	a, err := log.Digest(ctx, p, 0, 0, 1)
	if err != nil {
		return 0, -1, err
	}
	if b.Next > a.Next {
		return 0, a.Next, nil // the copy has what the log lacks
	}
	return compareFrom(ctx, log, copied, p, max(a.First, b.First), min(a.Next, b.Next))
}

// compareFrom is Compare for the stretch [from, end).
func compareFrom(ctx context.Context, log, copied Digester, p im.Partition, from, end int64) (compared, differs int64, err error) {
	for from < end {
		to := min(end, from+compareRecords)
		at, begins, err := differ(ctx, log, copied, p, from, to)
		switch {
		case err != nil:
			return compared, -1, err
		case at >= 0:
			return compared, at, nil
		case begins > from: // what is before it a copy lacks, and nobody needs
			from = begins
			continue
		}
		compared += to - from
		from = to
	}
	return compared, -1, nil
}

// differ compares a stretch in pieces, and the first piece that differs again, down to a record. If one end lacks some of it for good,
// nothing was compared, and begins is where it goes on.
func differ(ctx context.Context, log, copied Digester, p im.Partition, from, to int64) (at, begins int64, err error) {
	const pieces = 64
	piece := max(1, (to-from+pieces-1)/pieces)
	a, err := log.Digest(ctx, p, from, to, int(piece))
	if err != nil {
		return -1, from, err
	}
	b, err := copied.Digest(ctx, p, from, to, int(piece))
	if err != nil {
		return -1, from, err
	}
	if begins = max(a.First, b.First); begins > from {
		return -1, begins, nil
	}
	begins = from
	if slices.Equal(a.Sums, b.Sums) {
		return -1, begins, nil
	}
	for i := range min(len(a.Sums), len(b.Sums)) {
		if a.Sums[i] != b.Sums[i] {
			first := from + int64(i)*piece
			if piece == 1 {
				return first, begins, nil
			}
			at, _, err := differ(ctx, log, copied, p, first, min(to, first+piece))
			return at, begins, err
		}
	}
	return -1, begins, im.Errorf(im.CodeInternal, "%v: %d sums against %d", p, len(a.Sums), len(b.Sums))
}
