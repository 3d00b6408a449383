package owner

import (
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// deliver adds the event of a record for those who may read it. The sender is among them: they have other devices. A
// repeat is delivered like any record, because its seq counts; a client knows the id. Of a kind or version that this build
// does not know, the head is, for the same reason. What did not decode is not: its bytes are anything, and the next pull
// covers it.
func (sh *Shard) deliver(to []im.Delivery, r *view.Record, region im.Region, interest bool) []im.Delivery {
	if interest && r.Conversation.Lane() == im.LaneSuper {
		return sh.deliverToInterest(to, r, region)
	}
	recipients := r.Conversation.Members()
	if recipients == nil {
		g, c := sh.change(r)
		recipients = g.Readers(r.Place)
		if c != nil && r.Conversation.Lane() == im.LaneSuper {
			// Gateways are to know it when others deliver to interest, or this region begins to.
			if in, _ := g.Moved(*c); len(in) > 0 && told(r) {
				to = append(to, event(r, region, in))
				to[len(to)-1].Join = []im.UID{im.InterestIn(r.Conversation)}
				recipients = slices.DeleteFunc(recipients, func(uid im.UID) bool { return slices.Contains(in, uid) })
			}
		}
	}
	if !told(r) || len(recipients) == 0 {
		return to
	}
	return append(to, event(r, region, recipients))
}

// maxNamed bounds the users whom a delivery to interest names as changed. Of a change that names more, gateways ask.
const maxNamed = 64

// deliverToInterest adds the event of a large group's record: once for whoever is interested, however many are in, and by
// their uids for those whom the record adds or removes: their gateways may not be interested, or not in them any more.
func (sh *Shard) deliverToInterest(to []im.Delivery, r *view.Record, region im.Region) []im.Delivery {
	var before im.Cursor
	if g, ok := sh.groups.get(r.Conversation); ok {
		before = g.Changes()
	}
	g, c := sh.change(r)
	if !told(r) || len(g.Changes()) == 0 {
		return to
	}
	group := im.InterestIn(r.Conversation)
	interest := &im.Interest{Place: r.Place, Changes: g.Changes()}
	if c != nil {
		in, out := g.Moved(*c)
		if len(in) > 0 {
			to = append(to, event(r, region, in))
			to[len(to)-1].Join = []im.UID{group}
		}
		if len(out) > 0 {
			to = append(to, event(r, region, out))
		}
		if len(c.Members) <= maxNamed && !before.CoversAll(interest.Changes) {
			interest.Before = before
			for _, m := range c.Members {
				interest.Changed = append(interest.Changed, m.UID)
			}
		}
	}
	to = append(to, event(r, region, []im.UID{group}))
	to[len(to)-1].Interest = interest
	return to
}

// change gives a record's group what the record changes, nil if that is nothing.
func (sh *Shard) change(r *view.Record) (*view.Group, *view.Change) {
	g, ok := sh.groups.get(r.Conversation)
	if !ok { // remember put it there
		g = &view.Group{}
		sh.groups.hold(r.Conversation, g, sh.batch)
	}
	c, changed := view.ChangeOf(r)
	if !changed {
		return g, nil
	}
	g.Add(c)
	sh.changes++
	return g, &c
}

// told tells whether clients are told of a record.
func told(r *view.Record) bool { return !r.Opaque && (!r.Known() || r.Shown) }

func event(r *view.Record, region im.Region, recipients []im.UID) im.Delivery {
	return im.Delivery{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(r.Conversation), Recipients: recipients,
		Body: wire.AppendRecordEvent(nil, &r.Record, region), Trace: r.Trace, Notify: r.Place.Origin.Region() == region,
	}
}

// receipt adds the event of a user's cursors for the others of a direct conversation or a group. Super groups have no
// read lists.
func (sh *Shard) receipt(to []im.Delivery, c wire.Cursors, p im.Partition, region im.Region) []im.Delivery {
	recipients := c.Conversation.Members()
	switch c.Conversation.Lane() {
	case im.LaneSuper:
		return to
	case im.LaneGroup:
		if g, ok := sh.groups.get(c.Conversation); ok {
			recipients = g.Members()
		}
	}
	if len(recipients) == 0 {
		return to
	}
	return append(to, im.Delivery{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(c.Conversation), Recipients: recipients,
		Body: wire.EncodeReceiptEvent(c, region), Notify: p.Origin().Region() == region,
	})
}
