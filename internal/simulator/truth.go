package simulator

import (
	"cmp"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// logged is a record as its own log took it.
type logged struct {
	id     im.ID
	text   string // of the id's client_id
	place  im.Place
	kind   im.Kind
	offset int64
	add    []im.UID // of a group's members
	remove []im.UID
}

// truth is what is in the origins' own logs, numbered as they took it. It shares no code with what is checked against it.
type truth struct {
	streams map[view.HeadKey][]logged
	origins map[im.Conversation][]im.Origin // in the order in which they had a record first
	total   int
}

func newTruth() *truth {
	return &truth{streams: map[view.HeadKey][]logged{}, origins: map[im.Conversation][]im.Origin{}}
}

// take numbers a record that an origin's own log has taken.
func (t *truth) take(r *im.Record, offset int64) {
	k := view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin}
	stream := t.streams[k]
	if len(stream) == 0 && !slices.Contains(t.origins[r.Conversation], k.Origin) {
		t.origins[r.Conversation] = append(t.origins[r.Conversation], k.Origin)
	}
	l := logged{id: r.ID, text: r.ClientID.String(), place: im.Place{Stamp: r.Place.Stamp, Origin: k.Origin, Seq: uint64(len(stream) + 1)}, kind: r.Kind, offset: offset}
	uids := func(names []string) (all []im.UID) {
		for _, n := range names {
			all = append(all, im.UID(n))
		}
		return all
	}
	switch r.Kind {
	case im.KindCreate:
		var b wire.Create
		must(wire.Unmarshal(r.Body, &b))
		l.add = append(uids(b.Members), r.Sender)
	case im.KindMember:
		var b wire.Member
		must(wire.Unmarshal(r.Body, &b))
		l.add, l.remove = uids(b.Add), uids(b.Remove)
	}
	t.streams[k] = append(stream, l)
	t.total++
}

// seal forgets what a lost origin had past an offset of a topic: it never was.
func (t *truth) seal(topic string, end int64) {
	for k, stream := range t.streams {
		if im.MsgTopic(k.Origin, k.Conversation.Lane()) != topic {
			continue
		}
		for len(stream) > 0 && stream[len(stream)-1].offset >= end {
			stream = stream[:len(stream)-1]
		}
		t.streams[k] = stream
	}
}

// at is the record with a seq of a stream, nil if there is none.
func (t *truth) at(k view.HeadKey, seq uint64) *logged {
	if s := t.streams[k]; seq >= 1 && seq <= uint64(len(s)) {
		return &s[seq-1]
	}
	return nil
}

// shown is a message where everybody shows it.
type shown struct {
	id    im.ID
	place im.Place
	kind  im.Kind
}

// timeline is what everybody who may see all of a conversation shows in the end: each id once, at its lowest place.
func (t *truth) timeline(c im.Conversation) []shown {
	var all []shown
	for _, o := range t.origins[c] {
		for _, l := range t.streams[view.HeadKey{Conversation: c, Origin: o}] {
			all = append(all, shown{l.id, l.place, l.kind})
		}
	}
	slices.SortFunc(all, func(a, b shown) int { return compare(a.place, b.place) })
	seen := make(map[im.UUID]bool, len(all)) // client_ids of one sender never repeat another's here
	return slices.DeleteFunc(all, func(s shown) bool {
		again := seen[s.id.ClientID]
		seen[s.id.ClientID] = true
		return again
	})
}

// compare is the order of places as the design says it.
func compare(a, b im.Place) int {
	return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Seq, b.Seq))
}

// span is a stretch of a membership.
type span struct {
	from, to im.Place
	open     bool
}

// spans are when a user is in a group, by records of each id at its lowest place. plain tells that one record alone says
// so: then nothing that becomes known later can widen it.
func (t *truth) spans(c im.Conversation, u im.UID) (spans []span, plain bool) {
	if members := c.Members(); members != nil {
		return []span{{open: true}}, true
	}
	type word struct {
		id    im.UUID
		place im.Place
		add   bool
	}
	var words []word
	for _, o := range t.origins[c] {
		for _, l := range t.streams[view.HeadKey{Conversation: c, Origin: o}] {
			added, removed := slices.Contains(l.add, u), slices.Contains(l.remove, u)
			if added || removed {
				words = append(words, word{l.id.ClientID, l.place, !removed})
			}
		}
	}
	plain = len(words) == 1
	slices.SortFunc(words, func(a, b word) int { return compare(a.place, b.place) })
	seen := map[im.UUID]bool{}
	for _, x := range words {
		if seen[x.id] {
			continue
		}
		seen[x.id] = true
		in := len(spans) > 0 && spans[len(spans)-1].open
		switch {
		case x.add && !in:
			spans = append(spans, span{from: x.place, open: true})
		case !x.add && in:
			spans[len(spans)-1].open, spans[len(spans)-1].to = false, x.place
		}
	}
	return spans, plain
}

func within(spans []span, p im.Place) bool {
	for _, s := range spans {
		if compare(s.from, p) <= 0 && (s.open || compare(p, s.to) <= 0) {
			return true
		}
	}
	return false
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
