package simulator

import (
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

const (
	seconds = time.Second
	hours   = time.Hour
)

// globalTimeout is how long a submit waits for a peer to hold it.
const globalTimeout = 3 * second

// result answers a submit.
type result struct {
	stamp  im.Stamp
	origin im.Origin
	global bool
	err    error
}

// submit accepts a record, as imserver does: checks, stamps, appends, answers.
func (s *server) submit(call im.Call, request *wire.SubmitRequest, answer func(result)) {
	if s.r.sealed {
		answer(result{err: im.Errorf(im.CodeUnready, "this region was declared lost")})
		return
	}
	sub, err := s.rules.Check(call, request, s.now())
	if err != nil {
		answer(result{err: err})
		return
	}
	c := sub.Record.Conversation
	done, err := s.rules.Named(sub)
	if !done {
		var v accept.Verdict
		look := func(g *view.Group) { v = s.rules.Look(g, sub) }
		s.group(c, look)
		err = s.rules.Settle(sub, v, s.now(), func() (im.Stamp, error) { return s.watermark(c), nil })
	}
	if err != nil {
		s.refuse(sub, err, answer)
		return
	}
	r := &sub.Record
	r.Seen = max(im.Stamp(request.Seen), call.Seen)
	if r.Place.Stamp, err = s.w.Bug.stamp(s, r.Seen); err != nil {
		answer(result{err: err})
		return
	}
	l := s.r.log(im.MsgTopic(s.r.origin, c.Lane()))
	if s.w.Bug == BugAckBeforeAppend {
		answer(result{stamp: r.Place.Stamp, origin: s.r.origin})
		answer = func(result) {}
	}
	s.r.appendTo(s.proc, l, []im.Entry{wire.EncodeRecord(r)}, []*im.Record{r}, func(first int64, ok bool) {
		if !ok {
			answer(result{err: im.Errorf(im.CodeUnavailable, "the log did not take the record in time")})
			return
		}
		s.acked(sub, l, first, answer)
	})
}

// group calls look with a group as this server or the store knows it.
func (s *server) group(c im.Conversation, look func(*view.Group)) {
	var before uint64
	if s.shard != nil {
		changes, ok := s.shard.Group(c, look)
		if ok {
			return
		}
		before = changes
	}
	g := s.r.store.known(view.Ask{Groups: []im.Conversation{c}}).Groups[c]
	if g == nil {
		g = &view.Group{}
	}
	if s.shard == nil {
		look(g)
		return
	}
	s.shard.Learn(c, g, before, look)
}

func (s *server) watermark(c im.Conversation) im.Stamp {
	o, _, _ := c.Created()
	topic := im.MsgTopic(o, c.Lane())
	if s.shard != nil {
		return s.shard.Watermark(topic)
	}
	return s.r.store.view.Position(im.Partition{Topic: topic}).Watermark
}

// refuse answers a submit that is refused; for good, only if it was not accepted before.
func (s *server) refuse(sub *accept.Submission, refused error, answer func(result)) {
	if im.CodeOf(refused).Spec().Action == im.ActionStop && sub.Record.Conversation.Members() == nil {
		if found, ok := s.r.store.view.Find(sub.Record.ID); ok {
			sub.Record.Place = found.Place
			s.acked(sub, s.r.log(im.MsgTopic(found.Place.Origin, sub.Record.Conversation.Lane())), found.Offset, answer)
			return
		}
	}
	answer(result{err: refused})
}

// acked answers a submit whose record is in the log, and with global, in a peer's copy.
func (s *server) acked(sub *accept.Submission, l *log, offset int64, answer func(result)) {
	r := result{stamp: sub.Record.Place.Stamp, origin: sub.Record.Place.Origin}
	switch {
	case !sub.Global:
		answer(r)
	case r.origin != s.r.origin || s.w.Bug == BugGlobalUnheld:
		r.global = true
		answer(r)
	default:
		s.await(l, offset, s.w.now+globalTimeout, r, answer)
	}
}

// await looks every now and then whether a peer holds an offset.
func (s *server) await(l *log, offset, deadline int64, r result, answer func(result)) {
	switch {
	case s.r.held[l.p.Topic] > offset:
		r.global = true
		answer(r)
	case s.w.now >= deadline:
		answer(r)
	default:
		s.after(50*ms, func() { s.await(l, offset, deadline, r, answer) })
	}
}

// mark moves a user's cursors, cut to what this region has applied, and writes them within a second.
func (s *server) mark(c im.Conversation, u im.UID, delivered, read im.Cursor) {
	heads := im.Cursor{}
	for o := range delivered.Merge(read) {
		k := view.HeadKey{Conversation: c, Origin: o}
		seq, ok := uint64(0), false
		if s.shard != nil {
			seq, ok = s.shard.Last(k)
		}
		if !ok {
			seq = s.r.store.view.Last(k)
		}
		heads[o] = seq
	}
	if s.w.Bug != BugMarksUncut {
		delivered, read = delivered.Cut(heads), read.Cut(heads)
	}
	if len(delivered)+len(read) == 0 {
		return
	}
	s.marks.Add(accept.MarkKey{Conversation: c, UID: u}, delivered, read)
	if !s.marking {
		s.marking = true
		s.after(100*ms, s.writeMarks)
	}
}

func (s *server) writeMarks() {
	s.marking = false
	ready, next := s.marks.Take(s.now(), seconds, false)
	if next < hours {
		s.marking = true
		s.after(max(next.Microseconds(), ms), s.writeMarks)
	}
	if s.r.sealed {
		return
	}
	for _, c := range ready {
		stamp, err := s.clock.Next(s.now(), 0, im.MaxSkew)
		must(err)
		s.r.appendTo(s.proc, s.r.log(im.ReadTopic(s.r.origin)), []im.Entry{wire.EncodeCursors(c, s.r.origin, stamp)}, nil, func(_ int64, ok bool) {
			if !ok {
				s.marks.Add(accept.MarkKey{Conversation: c.Conversation, UID: c.UID}, c.Delivered, c.Read)
				if !s.marking {
					s.marking = true
					s.after(second, s.writeMarks)
				}
			}
		})
	}
}
