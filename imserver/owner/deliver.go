package owner

import (
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// deliver adds the event of a record for those who may read it. The sender is among them: they have other devices. A
// repeat is delivered like any record, because its seq counts; a client knows the id. Of a kind or version that this build
// does not know, the head is, for the same reason. What did not decode is not: its bytes are anything, and the next pull
// covers it.
func (sh *Shard) deliver(to []im.Delivery, r *view.Record, region im.Region) []im.Delivery {
	recipients := r.Conversation.Members()
	if recipients == nil {
		g, ok := sh.groups.get(r.Conversation)
		if !ok { // remember put it there
			g = &view.Group{}
			sh.groups.hold(r.Conversation, g, sh.batch)
		}
		if c, changed := view.ChangeOf(r); changed {
			g.Add(c)
			sh.changes++
		}
		recipients = g.Readers(r.Place)
	}
	if r.Opaque || r.Known() && !r.Shown || len(recipients) == 0 {
		return to
	}
	return append(to, im.Delivery{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Key: string(r.Conversation), Recipients: recipients,
		Body: wire.AppendRecordEvent(nil, &r.Record, region), Trace: r.Trace, Notify: r.Place.Origin.Region() == region,
	})
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
