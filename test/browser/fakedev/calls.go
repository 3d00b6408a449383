package fakedev

import (
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const globalDeadline = 1500 * time.Millisecond

// serve carries out one call of the service im. What it returns waits for the answer: a submit is in the log before that,
// so submits keep their order.
func (w *World) serve(r *region, uid im.UID, q *wire.Call) func() ([]byte, error) {
	var wait func() proto.Message
	out, err := w.carryOut(r, uid, q, &wait)
	return func() ([]byte, error) {
		if err != nil {
			return nil, err
		}
		if wait != nil {
			out = wait()
		}
		return wire.Marshal(out)
	}
}

func (w *World) carryOut(r *region, uid im.UID, q *wire.Call, wait *func() proto.Message) (out proto.Message, err error) {
	switch q.Method {
	case wire.MethodSubmit:
		out, err = with(q.Body, func(m *wire.SubmitRequest) (proto.Message, error) {
			*wait, err = w.submit(r, uid, m, q.Trace)
			return nil, err
		})
	case wire.MethodPull:
		out, err = with(q.Body, func(m *wire.PullRequest) (proto.Message, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			c, err := r.own(m.Conversation, uid)
			if err != nil {
				return nil, err
			}
			return c.pull(uid, m)
		})
	case wire.MethodList:
		out, err = with(q.Body, func(m *wire.ListRequest) (proto.Message, error) { return w.list(r, uid, m) })
	case wire.MethodMark:
		out, err = with(q.Body, func(m *wire.MarkRequest) (proto.Message, error) { return w.mark(r, uid, m) })
	case wire.MethodReceipts:
		out, err = with(q.Body, func(m *wire.ReceiptsRequest) (proto.Message, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			c, err := r.own(m.Conversation, uid)
			if err != nil {
				return nil, err
			}
			return c.receipts(), nil
		})
	case wire.MethodTyping:
		out, err = with(q.Body, func(m *wire.TypingRequest) (proto.Message, error) { return w.typing(r, uid, m) })
	case wire.MethodMembers:
		out, err = with(q.Body, func(m *wire.MembersRequest) (proto.Message, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			c, err := r.own(m.Conversation, uid)
			if err != nil {
				return nil, err
			}
			answer := &wire.MembersResponse{Title: c.title}
			for _, u := range slices.Sorted(maps.Keys(c.members)) {
				answer.Members = append(answer.Members, string(u))
			}
			return answer, nil
		})
	default:
		err = im.Errorf(im.CodeUnknownMethod, "no method %q", q.Method)
	}
	return out, err
}

func with[T any, M interface {
	*T
	proto.Message
}](body []byte, do func(M) (proto.Message, error)) (proto.Message, error) {
	m := M(new(T))
	if err := wire.Unmarshal(body, m); err != nil {
		return nil, err
	}
	return do(m)
}

// own returns a conversation that the user may read. The caller holds World.mu.
func (r *region) own(id string, uid im.UID) (*conv, error) {
	if _, err := im.ParseConversation(id); err != nil {
		return nil, im.Errorf(im.CodeBadConversation, "%v", err)
	}
	c := r.convs[id]
	if c == nil && isGroup(id) {
		return nil, im.Errorf(im.CodeNotYetHere, "no such group here yet")
	}
	if c == nil {
		c = r.conv(id)
	}
	if !c.members[uid] {
		return nil, im.Errorf(im.CodeNotMember, "you are no member")
	}
	return c, nil
}

// submit accepts a record; what it returns waits for the ack.
func (w *World) submit(r *region, uid im.UID, m *wire.SubmitRequest, trace string) (func() proto.Message, error) {
	began := time.Now()
	if _, err := im.ParseUUID(m.ClientId); err != nil {
		return nil, im.Errorf(im.CodeBadClientID, "%v", err)
	}
	kind, _, err := wire.SubmitContent(m)
	if err != nil {
		return nil, err
	}
	if text := m.GetText(); text != nil && (text.Text == "" || !utf8.ValidString(text.Text)) {
		return nil, im.Errorf(im.CodeBadText, "an empty text")
	} else if text != nil && len(text.Text) > maxText {
		return nil, im.Errorf(im.CodeTextTooLong, "the text has %d bytes; at most %d are allowed", len(text.Text), maxText)
	}
	w.mu.Lock()
	e, at, err := w.accept(r, uid, m, kind, trace, began)
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return func() proto.Message {
		out := &wire.SubmitResponse{Conversation: m.Conversation, ClientId: m.ClientId, Stamp: e.record.Stamp, Origin: e.record.Origin}
		for m.Ack == string(im.AckGlobal) && !out.Global && time.Since(began) < globalDeadline {
			w.mu.Lock()
			for _, l := range w.links {
				out.Global = out.Global || l.from == r && l.at > at
			}
			w.mu.Unlock()
			time.Sleep(5 * time.Millisecond)
		}
		return out
	}, nil
}

// accept appends to the region's log and applies there. The caller holds World.mu.
func (w *World) accept(r *region, uid im.UID, m *wire.SubmitRequest, kind im.Kind, trace string, began time.Time) (*entry, int, error) {
	if w.refuse > 0 {
		w.refuse--
		return nil, 0, im.Errorf(im.CodeBadText, "refused, as ordered")
	}
	if kind == im.KindCreate {
		if o, _, _ := im.Conversation(m.Conversation).Created(); o != im.Origin(r.name) {
			return nil, 0, im.Errorf(im.CodeWrongRegion, "create it in %s", o)
		}
	} else if _, err := r.own(m.Conversation, uid); err != nil {
		return nil, 0, err
	}
	now := time.Now()
	stamp, err := r.clock.Next(now, im.Stamp(m.Seen), im.MaxSkew)
	if err != nil {
		return nil, 0, err
	}
	c := r.conv(m.Conversation)
	record := &wire.Record{
		Conversation: m.Conversation, Kind: string(kind), Version: 1, Sender: string(uid), ClientId: m.ClientId,
		Stamp: uint64(stamp), Origin: string(r.name), Seq: c.head[im.Origin(r.name)] + 1, Trace: trace,
	}
	switch content := m.Content.(type) {
	case *wire.SubmitText:
		record.Content = &wire.RecordText{Text: content.Text}
	case *wire.SubmitCreate:
		record.Content = &wire.RecordCreate{Create: content.Create}
	case *wire.SubmitMember:
		record.Content = &wire.RecordMember{Member: content.Member}
	case *wire.SubmitSettings:
		record.Content = &wire.RecordSettings{Settings: content.Settings}
	}
	e := &entry{at: now, record: record, trace: trace}
	r.log = append(r.log, e)
	r.accepted.hit(now)
	w.span(e, "submit", r.name, "gateway", began, now.Add(2500*time.Microsecond))
	w.span(e, "append", r.name, "imserver", now, now.Add(1800*time.Microsecond))
	r.apply(w, r.name, e, now)
	return e, len(r.log) - 1, nil
}

func (w *World) list(r *region, uid im.UID, m *wire.ListRequest) (proto.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, err := im.ParseListCursor(m.Cursor)
	if err != nil {
		return nil, err
	}
	out := &wire.ListResponse{}
	for _, id := range slices.Sorted(maps.Keys(r.convs)) {
		c := r.convs[id]
		changed := false
		for o, offset := range c.touched {
			changed = changed || int64(offset) > since[partition(o)]
		}
		if changed && (c.members[uid] || c.head != nil && isGroup(id) && c.got[uid] != nil) {
			out.Rows = append(out.Rows, c.row(uid))
		}
	}
	cursor := im.ListCursor{}
	for o, offset := range r.offsets {
		cursor[partition(o)] = int64(offset)
	}
	out.Cursor = cursor.String()
	return out, nil
}

func partition(o im.Region) im.Partition {
	p, _ := im.ParsePartition("msg." + string(o) + ".direct/0")
	return p
}

func (w *World) mark(r *region, uid im.UID, m *wire.MarkRequest) (proto.Message, error) {
	delivered, err := im.ParseCursor(m.Delivered)
	if err != nil {
		return nil, err
	}
	read, err := im.ParseCursor(m.Read)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := r.own(m.Conversation, uid)
	if err != nil {
		return nil, err
	}
	delivered, read = delivered.Cut(c.head), read.Cut(c.head)
	if !c.got[uid].CoversAll(delivered) || !c.read[uid].CoversAll(read) {
		e := &entry{at: time.Now(), cursors: &wire.Cursors{Conversation: im.Conversation(c.id), UID: uid, Delivered: delivered, Read: read}}
		r.log = append(r.log, e)
		r.apply(w, r.name, e, e.at)
	}
	return &wire.MarkResponse{Delivered: c.got[uid].String(), Read: c.read[uid].String()}, nil
}

// typing tells the other members in every region, once and by no number.
func (w *World) typing(r *region, uid im.UID, m *wire.TypingRequest) (proto.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := r.own(m.Conversation, uid)
	if err != nil {
		return nil, err
	}
	push := &wire.Push{
		Service: wire.ServiceIM, Method: wire.MethodEvent, Body: wire.EncodeTypingEvent(im.Conversation(m.Conversation), uid, m.Stopped, r.name),
	}
	for _, name := range w.names {
		for _, g := range w.regions[name].gateways {
			for _, s := range g.sessions {
				if _, member := c.members[s.uid]; member && s.uid != uid && s.conn != nil {
					s.conn.frame(push)
				}
			}
		}
	}
	return &wire.TypingResponse{}, nil
}
