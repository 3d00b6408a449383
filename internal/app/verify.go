package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/rpc"
)

// VerifyOrder compares a region's copies of another's log with the log.
type VerifyOrder struct {
	From, To im.Region         // whose log, whose copies
	Told     func(line string) // of each partition that differs or cannot be compared, and a summary
}

// digester is one region's end.
type digester interface {
	Digest(ctx context.Context, p im.Partition, from, to int64, piece int) (im.CopyDigest, error)
}

// Verify proves that the copies equal the log, or names the first record of each partition that differs. Only sums cross
// between the regions. What one end does not hold any more, or not yet, is not compared.
func (o *Operator) Verify(ctx context.Context, order VerifyOrder) error {
	origin, ok := o.site.newest(order.From)
	if !ok {
		return fmt.Errorf("region %s follows no log of %s", o.site.Region, order.From)
	}
	var ends [2]digester
	for i, r := range []im.Region{order.From, order.To} {
		conn, err := o.links.Dial(r)
		if err != nil {
			return err
		}
		defer conn.Close()
		ends[i] = rpc.NewCopies(conn, r)
	}
	records, partitions, wrong := int64(0), 0, 0
	for _, topic := range im.Topics(origin) {
		for n := range o.site.Partitions {
			p := im.Partition{Topic: topic, Number: n}
			compared, differs, err := compare(ctx, ends[0], ends[1], p)
			if err != nil {
				return err
			}
			records += compared
			partitions++
			if differs >= 0 {
				wrong++
				order.Told(fmt.Sprintf("%v: record %d differs between %s and %s: what %s derived from there on is not the log's", p, differs, order.From, order.To, order.To))
			}
		}
	}
	order.Told(fmt.Sprintf("%d records in %d partitions of %s were compared: %d partitions differ", records, partitions, origin, wrong))
	if wrong > 0 {
		return fmt.Errorf("%d of %d partitions of %s differ in %s", wrong, partitions, origin, order.To)
	}
	return nil
}

// compareRecords is how many records are compared with one question to each end.
const compareRecords = 1 << 16

// compare finds the first record that differs, -1 if there is none.
func compare(ctx context.Context, log, copied digester, p im.Partition) (compared, differs int64, err error) {
	a, err := log.Digest(ctx, p, 0, 0, 1)
	if err != nil {
		return 0, -1, err
	}
	b, err := copied.Digest(ctx, p, 0, 0, 1)
	if err != nil {
		return 0, -1, err
	}
	if b.Next > a.Next {
		return 0, a.Next, nil // the copy has what the log lacks
	}
	from, end := max(a.First, b.First), min(a.Next, b.Next)
	begin := from
	for from < end {
		to := min(end, from+compareRecords)
		at, err := differ(ctx, log, copied, p, from, to)
		if err != nil || at >= 0 {
			return from - begin, at, err
		}
		from = to
	}
	return max(0, end-begin), -1, nil
}

// differ compares a stretch in pieces, and the first piece that differs again, down to a record.
func differ(ctx context.Context, log, copied digester, p im.Partition, from, to int64) (int64, error) {
	const pieces = 64
	piece := max(1, (to-from+pieces-1)/pieces)
	a, err := log.Digest(ctx, p, from, to, int(piece))
	if err != nil {
		return -1, err
	}
	b, err := copied.Digest(ctx, p, from, to, int(piece))
	if err != nil {
		return -1, err
	}
	if slices.Equal(a.Sums, b.Sums) {
		return -1, nil
	}
	for i := range min(len(a.Sums), len(b.Sums)) {
		if a.Sums[i] != b.Sums[i] {
			first := from + int64(i)*piece
			if piece == 1 {
				return first, nil
			}
			return differ(ctx, log, copied, p, first, min(to, first+piece))
		}
	}
	return -1, im.Errorf(im.CodeInternal, "%v: %d sums against %d", p, len(a.Sums), len(b.Sums))
}
