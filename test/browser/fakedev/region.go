package fakedev

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// entry is one record, or one user's cursors, in a region's log.
type entry struct {
	at      time.Time
	record  *wire.Record  // or
	cursors *wire.Cursors // of read.<origin>
	trace   string
}

// conv is a region's view of one conversation.
type conv struct {
	id      string
	title   string
	records []*wire.Record // as applied
	head    im.Cursor
	members map[im.UID]bool
	read    map[im.UID]im.Cursor
	got     map[im.UID]im.Cursor
	touched map[im.Region]int // offset of its last record, per origin
	joined  map[im.UID]int    // how many records there were when a member was added: those are not for them
}

func (r *region) conv(id string) *conv {
	c := r.convs[id]
	if c == nil {
		c = &conv{
			id: id, head: im.Cursor{}, members: map[im.UID]bool{}, read: map[im.UID]im.Cursor{}, got: map[im.UID]im.Cursor{},
			touched: map[im.Region]int{}, joined: map[im.UID]int{},
		}
		for _, uid := range im.Conversation(id).Members() {
			c.members[uid] = true
		}
		r.convs[id] = c
	}
	return c
}

// apply takes the next entry of an origin into the view and tells the members who are connected here. The caller holds
// World.mu.
func (r *region) apply(w *World, from im.Region, e *entry, now time.Time) {
	r.offsets[from]++
	if e.cursors != nil {
		c := r.conv(string(e.cursors.Conversation))
		c.read[e.cursors.UID] = c.read[e.cursors.UID].Merge(e.cursors.Read)
		c.got[e.cursors.UID] = c.got[e.cursors.UID].Merge(e.cursors.Delivered)
		c.touched[from] = r.offsets[from]
		event := &wire.Event{From: string(r.name), Event: &wire.EventReceipt{Receipt: wire.ReceiptOf(*e.cursors)}}
		r.push(c, event, "")
		return
	}
	began := time.Now()
	c := r.conv(e.record.Conversation)
	c.touched[from] = r.offsets[from]
	c.head[im.Origin(from)] = e.record.Seq
	c.records = append(c.records, e.record)
	switch content := e.record.Content.(type) {
	case *wire.RecordCreate:
		c.title = content.Create.Title
		c.members[im.UID(e.record.Sender)] = true
		for _, uid := range content.Create.Members {
			c.members[im.UID(uid)] = true
		}
	case *wire.RecordMember:
		for _, uid := range content.Member.Add {
			c.members[im.UID(uid)] = true
			c.joined[im.UID(uid)] = len(c.records) - 1
		}
		r.push(c, recordEvent(e.record, r.name), e.trace) // those who leave hear of it
		for _, uid := range content.Member.Remove {
			delete(c.members, im.UID(uid))
		}
		return
	case *wire.RecordSettings:
		c.title = content.Settings.Title
	}
	r.lag[im.Origin(from)] = now.Sub(e.at).Seconds()
	w.span(e, "apply", r.name, "imserver", began, time.Now().Add(700*time.Microsecond))
	r.push(c, recordEvent(e.record, r.name), e.trace)
	w.span(e, "deliver", r.name, "router", time.Now().Add(800*time.Microsecond), time.Now().Add(1500*time.Microsecond))
}

func recordEvent(m *wire.Record, from im.Region) *wire.Event {
	return &wire.Event{From: string(from), Event: &wire.EventRecord{Record: m}}
}

func (r *region) push(c *conv, event *wire.Event, trace string) {
	body, err := wire.Marshal(event)
	if err != nil {
		return // not UTF-8: shown to no one
	}
	for _, g := range r.gateways {
		for _, s := range g.sessions {
			if c.members[s.uid] {
				s.push(body, trace)
			}
		}
	}
}

// unread counts visible messages of others above a read cursor.
func (c *conv) unread(uid im.UID) (n uint32) {
	for _, m := range c.records {
		if m.Kind == string(im.KindMessage) && m.Sender != string(uid) && !c.read[uid].Covers(im.Origin(m.Origin), m.Seq) && n < 100 {
			n++
		}
	}
	return n
}

func (c *conv) row(uid im.UID) *wire.ListRow {
	row := &wire.ListRow{
		Conversation: c.id, Title: c.title, Head: c.head.String(), Unread: c.unread(uid),
		Delivered: c.got[uid].String(), Read: c.read[uid].String(), Member: c.members[uid],
	}
	for _, m := range c.records {
		if m.Kind == string(im.KindMessage) && (row.Last == nil || wire.RecordPlace(row.Last).Before(wire.RecordPlace(m))) {
			row.Last = m
		}
	}
	return row
}

// pull returns a page. Records of one id after the first are repeats.
func (c *conv) pull(uid im.UID, q *wire.PullRequest) (*wire.PullResponse, error) {
	has, err := im.ParseCursor(q.Cursor)
	if err != nil {
		return nil, err
	}
	upto, err := im.ParseCursor(q.Upto)
	if err != nil {
		return nil, err
	}
	limit := int(q.Limit)
	if limit == 0 {
		limit = 100
	}
	covers := has.Clone()
	if covers == nil {
		covers = im.Cursor{}
	}
	out := &wire.PullResponse{}
	seen := map[string]bool{}
	for i, m := range c.records {
		o, id := im.Origin(m.Origin), m.Sender+"/"+m.ClientId
		again := seen[id]
		seen[id] = true
		if has.Covers(o, m.Seq) || len(upto) > 0 && !upto.Covers(o, m.Seq) {
			continue
		}
		if len(out.Records)+len(out.Repeats) == limit {
			out.More = true
			break
		}
		covers[o] = m.Seq
		switch {
		case i < c.joined[uid]: // counted, not shown
		case again:
			out.Repeats = append(out.Repeats, &wire.Repeat{Sender: m.Sender, ClientId: m.ClientId, Stamp: m.Stamp, Origin: m.Origin, Seq: m.Seq})
		default:
			out.Records = append(out.Records, m)
		}
	}
	out.Cursor = covers.String()
	return out, nil
}

func (c *conv) receipts() *wire.ReceiptsResponse {
	out := &wire.ReceiptsResponse{}
	for _, uid := range slices.Sorted(maps.Keys(c.members)) {
		out.Receipts = append(out.Receipts, &wire.Receipt{
			Conversation: c.id, Uid: string(uid), Delivered: c.got[uid].String(), Read: c.read[uid].String(),
		})
	}
	return out
}

func isGroup(conversation string) bool {
	return strings.HasPrefix(conversation, "g:") || strings.HasPrefix(conversation, "s:")
}
