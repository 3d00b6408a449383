package app

import (
	"context"
	"fmt"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/regions"
	"github.com/antipode-im/antipode/internal/rpc"
)

// VerifyOrder compares a region's copies of another's log with the log.
type VerifyOrder struct {
	From, To im.Region         // whose log, whose copies
	Told     func(line string) // of each partition that differs or cannot be compared, and a summary
}

// Verify proves that the copies equal the log, or names the first record of each partition that differs. Only sums cross
// between the regions. What one end does not hold any more, or not yet, is not compared.
func (o *Operator) Verify(ctx context.Context, order VerifyOrder) error {
	if err := o.known(order.From, order.To); err != nil {
		return err
	}
	origin, _ := o.site.newest(order.From)
	var ends [2]*rpc.Copies
	for i, r := range []im.Region{order.From, order.To} {
		conn, err := o.links.Dial(r)
		if err != nil {
			return err
		}
		defer conn.Close()
		ends[i] = rpc.NewCopies(conn, r)
	}
	records, partitions, wrong, open := int64(0), 0, 0, 0
	for _, topic := range im.Topics(origin) {
		for n := range o.site.Partitions {
			p := im.Partition{Topic: topic, Number: n}
			compared, differs, err := regions.Compare(ctx, ends[0], ends[1], p)
			partitions++
			if err != nil {
				open++
				if ctx.Err() != nil || open == partitions && open == 3 { // it is not these partitions
					return err
				}
				order.Told(fmt.Sprintf("%v cannot be compared: %v", p, err))
				continue
			}
			records += compared
			if differs >= 0 {
				wrong++
				order.Told(fmt.Sprintf("%v: record %d differs between %s and %s: what %s derived from there on is not the log's", p, differs, order.From, order.To, order.To))
			}
		}
	}
	order.Told(fmt.Sprintf("%d records in %d partitions of %s were compared: %d partitions differ", records, partitions, origin, wrong))
	if wrong > 0 || open > 0 {
		return fmt.Errorf("%d of %d partitions of %s differ in %s, %d cannot be compared", wrong, partitions, origin, order.To, open)
	}
	return nil
}
