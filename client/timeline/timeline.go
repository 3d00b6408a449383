package timeline

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Limits bound what a timeline keeps. Zero takes the default in brackets.
type Limits struct {
	Keep  int // messages [10,000]
	Ahead int // records beyond a gap [4,096]
	IDs   int // ids, of messages kept and trimmed [4 × Keep]
}

// ChangeKind says what happened to the list.
type ChangeKind uint8

// The kinds of change.
const (
	Inserted ChangeKind = iota + 1 // Message is now at Index
	Moved                          // Message, which was at From, is now at Index (and may say something else)
	Trimmed                        // the first Count messages were dropped
)

// Change is one step from one list to the next. Applying all changes in order to an empty list gives Messages.
type Change struct {
	Kind        ChangeKind
	Message     Message
	From, Index int
	Count       int
}

// Gap is a run of seqs of one origin that exist and were not heard.
type Gap struct {
	Origin   im.Origin
	From, To uint64 // inclusive
}

// Timeline is what a client has of one conversation. It is not safe for concurrent use.
type Timeline struct {
	conversation im.Conversation
	limits       Limits

	cursor im.Cursor // everything up to it was heard; only grows
	// ahead holds the seqs heard beyond the cursor: each is > cursor[o]+1, and fewer than limits.Ahead in all.
	ahead  map[im.Origin]map[uint64]struct{}
	aheads int
	want   im.Cursor // everything up to it is known to exist
	seen   im.Stamp  // the highest stamp heard of
	passed im.Cursor // skipped: older history that is not wanted
	floor  im.Place  // of the last message trimmed

	messages []Message // sorted by place, no two with one id
	ids      map[key]*entry
	order    []key // of ids, by when they were first heard; the oldest are forgotten first
}

// key is an id without its conversation.
type key struct {
	sender im.UID
	client im.UUID
}

// entry is what is known of an id.
type entry struct {
	lowest  im.Place // the lowest place heard of, of a record or a repeat: where the message shows
	content im.Place // place of the record whose content shows; zero until one was heard
	kept    bool     // it is in messages, at lowest
}

// New returns an empty timeline.
func New(c im.Conversation, l Limits) *Timeline {
	if l.Keep <= 0 {
		l.Keep = 10_000
	}
	if l.Ahead <= 0 {
		l.Ahead = 4_096
	}
	l.IDs = max(l.IDs, 4*l.Keep)
	return &Timeline{
		conversation: c, limits: l, cursor: im.Cursor{}, want: im.Cursor{},
		ahead: map[im.Origin]map[uint64]struct{}{}, ids: map[key]*entry{},
	}
}

// Cursor is what was heard without a gap.
func (t *Timeline) Cursor() im.Cursor { return t.cursor.Clone() }

// Seen is the highest stamp heard of: what a submit names as seen (I4).
func (t *Timeline) Seen() im.Stamp { return t.seen }

// See raises Seen, for the stamp of an ack whose record was not heard yet.
func (t *Timeline) See(s im.Stamp) { t.seen = max(t.seen, s) }

// Messages is the list in place order.
func (t *Timeline) Messages() []Message { return slices.Clone(t.messages) }

// Len is the number of messages kept.
func (t *Timeline) Len() int { return len(t.messages) }

// Has tells whether a record with the id was heard (and not forgotten).
func (t *Timeline) Has(id im.ID) bool {
	e, ok := t.ids[key{id.Sender, id.ClientID}]
	return ok && !e.content.IsZero()
}

// Skip treats everything up to c as heard: older history that is not wanted. Nothing is shown for it.
func (t *Timeline) Skip(c im.Cursor) {
	t.passed = t.passed.Merge(c)
	t.advance(c)
}

// Skipped is what Skip was told.
func (t *Timeline) Skipped() im.Cursor { return t.passed.Clone() }

// Want says that everything up to c exists: a list named it as a conversation's head.
func (t *Timeline) Want(c im.Cursor) { t.want = t.want.Merge(c) }

// Unwant forgets what is missing, and so what was heard beyond it, when the servers will not give it: this user was removed from
// the group. What shows stays, and does not show twice if it is heard again.
func (t *Timeline) Unwant() {
	t.want = t.cursor.Clone()
	clear(t.ahead)
	t.aheads = 0
}

// Missing lists the gaps, by origin and seq: what is beyond the cursor and below something heard or wanted.
func (t *Timeline) Missing() []Gap {
	var gaps []Gap
	for _, o := range slices.Sorted(maps.Keys(t.origins())) {
		next := t.cursor[o] + 1
		for _, seq := range slices.Sorted(maps.Keys(t.ahead[o])) {
			if next < seq {
				gaps = append(gaps, Gap{o, next, seq - 1})
			}
			next = seq + 1
		}
		if next <= t.want[o] {
			gaps = append(gaps, Gap{o, next, t.want[o]})
		}
	}
	return gaps
}

func (t *Timeline) origins() map[im.Origin]struct{} {
	set := make(map[im.Origin]struct{}, len(t.want))
	for o := range t.want {
		set[o] = struct{}{}
	}
	for o := range t.ahead {
		set[o] = struct{}{}
	}
	return set
}

// Complete tells whether nothing is missing.
func (t *Timeline) Complete() bool { return t.aheads == 0 && t.cursor.CoversAll(t.want) }

// Add takes one record, as a push brings it. A record that is malformed or of another conversation is an error and
// changes nothing.
func (t *Timeline) Add(r *wire.Record) ([]Change, error) {
	m, shown, err := t.read(r)
	if err != nil {
		return nil, err
	}
	if m.Place.Seq > t.want[m.Place.Origin] { // as Want does, without a map for each record
		if t.want == nil {
			t.want = im.Cursor{}
		}
		t.want[m.Place.Origin] = m.Place.Seq
	}
	if !t.hear(m.Place, t.limits.Ahead) {
		return nil, nil
	}
	t.See(m.Place.Stamp)
	if !shown {
		return nil, nil
	}
	return t.trim(t.show(nil, m)), nil
}

// AddPage takes a pull's answer. Its cursor covers what it holds and what is hidden from this user, so afterwards the
// timeline's cursor covers it too. Malformed records are reported, and passed over.
func (t *Timeline) AddPage(p *wire.PullResponse) ([]Change, error) { return t.addPage(p, false) }

// AddAgain takes the answer to a pull from Skipped on, of which the cursor covers much already: what was hidden when it was
// covered, and is not any more, shows now.
func (t *Timeline) AddAgain(p *wire.PullResponse) ([]Change, error) { return t.addPage(p, true) }

func (t *Timeline) addPage(p *wire.PullResponse, again bool) ([]Change, error) {
	cursor, err := im.ParseCursor(p.Cursor)
	if err != nil {
		return nil, fmt.Errorf("pull of %s: %w", t.conversation, err)
	}
	var changes []Change
	var errs []error
	for _, r := range p.Records {
		m, shown, err := t.read(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !t.hear(m.Place, t.limits.Ahead+len(p.Records)+len(p.Repeats)) && (!again || !t.floor.Before(m.Place)) {
			continue
		}
		t.See(m.Place.Stamp)
		if shown {
			changes = t.show(changes, m)
		}
	}
	for _, r := range p.Repeats {
		place := im.Place{Stamp: im.Stamp(r.Stamp), Origin: im.Origin(r.Origin), Seq: r.Seq}
		id, err := im.ParseUUID(r.ClientId)
		if err = errors.Join(err, checkPlace(place)); err != nil {
			errs = append(errs, err)
			continue
		}
		if !t.hear(place, t.limits.Ahead+len(p.Records)+len(p.Repeats)) && (!again || !t.floor.Before(place)) {
			continue
		}
		t.See(place.Stamp)
		changes = t.repeat(changes, key{im.UID(r.Sender), id}, place)
	}
	t.advance(cursor)
	return t.trim(changes), errors.Join(errs...)
}

func (t *Timeline) read(r *wire.Record) (Message, bool, error) {
	if im.Conversation(r.Conversation) != t.conversation {
		return Message{}, false, fmt.Errorf("record of %q in the timeline of %q", r.Conversation, t.conversation)
	}
	return messageOf(r, t.conversation)
}

// hear counts a record; false if it was heard before, or if more than limit records are ahead of gaps.
func (t *Timeline) hear(p im.Place, limit int) bool {
	o, seq := p.Origin, p.Seq
	if seq <= t.cursor[o] {
		return false
	}
	if seq == t.cursor[o]+1 {
		t.cursor[o] = seq
		t.absorb(o)
		return true
	}
	if _, dup := t.ahead[o][seq]; dup || t.aheads >= limit {
		return false
	}
	if t.ahead[o] == nil {
		t.ahead[o] = map[uint64]struct{}{}
	}
	t.ahead[o][seq] = struct{}{}
	t.aheads++
	return true
}

// advance raises the cursor to cover c.
func (t *Timeline) advance(c im.Cursor) {
	for o, seq := range c {
		if seq <= t.cursor[o] {
			continue
		}
		t.cursor[o] = seq
		before := len(t.ahead[o])
		maps.DeleteFunc(t.ahead[o], func(s uint64, _ struct{}) bool { return s <= seq })
		t.aheads -= before - len(t.ahead[o])
		t.absorb(o)
	}
	t.Want(c)
}

// absorb takes into the cursor what follows it without a gap.
func (t *Timeline) absorb(o im.Origin) {
	for {
		next := t.cursor[o] + 1
		if _, ok := t.ahead[o][next]; !ok {
			break
		}
		delete(t.ahead[o], next)
		t.aheads--
		t.cursor[o] = next
	}
	if len(t.ahead[o]) == 0 {
		delete(t.ahead, o)
	}
}

// show takes a record that is visible on its own, first heard now.
func (t *Timeline) show(changes []Change, m Message) []Change {
	e := t.entry(key{m.Sender, m.ClientID}, m.Place)
	if !e.content.IsZero() && !m.Place.Before(e.content) {
		return changes // a further record of a message that shows at a lower place
	}
	first := e.content.IsZero()
	e.content = m.Place
	from := e.lowest
	if m.Place.Before(e.lowest) {
		e.lowest = m.Place
	}
	m.Place = e.lowest
	if first {
		e.kept = true
		i := t.insert(m)
		return append(changes, Change{Kind: Inserted, Message: m, Index: i})
	}
	if !e.kept {
		return changes // it was trimmed: an older place is beyond what is kept as well
	}
	return t.move(changes, from, m)
}

// repeat takes a further record of an id, that does not show by itself.
func (t *Timeline) repeat(changes []Change, k key, p im.Place) []Change {
	e := t.entry(k, p)
	if !p.Before(e.lowest) {
		return changes
	}
	from := e.lowest
	e.lowest = p
	if !e.kept {
		return changes
	}
	m := t.messages[t.index(from)]
	m.Place = p
	return t.move(changes, from, m)
}

func (t *Timeline) entry(k key, p im.Place) *entry {
	e, ok := t.ids[k]
	if !ok {
		e = &entry{lowest: p}
		t.ids[k] = e
		t.order = append(t.order, k)
		t.forget()
	}
	return e
}

// forget bounds the ids; those of messages kept stay.
func (t *Timeline) forget() {
	for range t.order {
		if len(t.order) <= t.limits.IDs {
			return
		}
		oldest := t.order[0]
		t.order = t.order[1:]
		if t.ids[oldest].kept {
			t.order = append(t.order, oldest)
			continue
		}
		delete(t.ids, oldest)
	}
}

func (t *Timeline) index(p im.Place) int {
	i, _ := slices.BinarySearchFunc(t.messages, p, func(m Message, p im.Place) int { return m.Place.Compare(p) })
	return i
}

func (t *Timeline) insert(m Message) int {
	i := t.index(m.Place)
	t.messages = slices.Insert(t.messages, i, m)
	return i
}

func (t *Timeline) move(changes []Change, from im.Place, m Message) []Change {
	i := t.index(from)
	t.messages = slices.Delete(t.messages, i, i+1)
	return append(changes, Change{Kind: Moved, Message: m, From: i, Index: t.insert(m)})
}

// trim drops the lowest places, an eighth at a time so that a full timeline does not trim at every message.
func (t *Timeline) trim(changes []Change) []Change {
	if len(t.messages) <= t.limits.Keep+t.limits.Keep/8 {
		return changes
	}
	n := len(t.messages) - t.limits.Keep
	for _, m := range t.messages[:n] {
		t.ids[key{m.Sender, m.ClientID}].kept = false
	}
	if last := t.messages[n-1].Place; t.floor.Before(last) {
		t.floor = last
	}
	t.messages = slices.Clone(t.messages[n:])
	return append(changes, Change{Kind: Trimmed, Count: n})
}
