package view

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Change is what a record does to its group.
type Change struct {
	Sender   im.UID
	ClientID im.UUID
	Place    im.Place
	Offset   int64 // in the origin's log
	Create   bool
	Members  []Membership // sorted by uid, each once
	Titled   bool
	Title    string
}

// Membership says that a record adds or removes a user.
type Membership struct {
	UID im.UID
	Add bool // false: removed
}

// ChangeOf returns what a record does to its group. ok is false for records that change none. The creator is a member.
// A user both added and removed is removed. Malformed uids are passed over: nobody can have them.
func ChangeOf(r *Record) (_ Change, ok bool) {
	if lane := r.Conversation.Lane(); !r.Shown || lane != im.LaneGroup && lane != im.LaneSuper {
		return Change{}, false
	}
	c := Change{Sender: r.Sender, ClientID: r.ClientID, Place: r.Place, Offset: r.Offset}
	members := map[im.UID]bool{}
	name := func(uids []string, add bool) {
		for _, s := range uids {
			if uid, err := im.ParseUID(s); err == nil {
				members[uid] = add
			}
		}
	}
	switch r.Kind {
	case im.KindCreate:
		var b wire.Create
		if proto.Unmarshal(r.Body, &b) != nil {
			return Change{}, false
		}
		c.Create, c.Titled, c.Title = true, true, b.Title
		members[r.Sender] = true
		name(b.Members, true)
	case im.KindMember:
		var b wire.Member
		if proto.Unmarshal(r.Body, &b) != nil {
			return Change{}, false
		}
		name(b.Add, true)
		name(b.Remove, false)
	case im.KindSettings:
		var b wire.Settings
		if proto.Unmarshal(r.Body, &b) != nil {
			return Change{}, false
		}
		c.Titled, c.Title = true, b.Title
	default:
		return Change{}, false
	}
	for _, uid := range slices.Sorted(maps.Keys(members)) {
		c.Members = append(c.Members, Membership{uid, members[uid]})
	}
	return c, true
}

// Event is one record's word on one user's membership.
type Event struct {
	Sender   im.UID
	ClientID im.UUID
	Place    im.Place
	Offset   int64
	Add      bool
}

// Interval is a stretch of membership: from the record that added the user to the one that removed them, both included.
type Interval struct {
	From im.Place
	To   im.Place // zero: still a member
}

// Open tells whether the interval has no end.
func (i Interval) Open() bool { return i.To.IsZero() }

// Everything is the interval of those who always see everything: the members that a conversation's id names.
func Everything() []Interval { return []Interval{{}} }

// Within tells whether a place lies in one of the intervals.
func Within(intervals []Interval, p im.Place) bool {
	for _, i := range intervals {
		if i.From.Compare(p) <= 0 && (i.Open() || p.Compare(i.To) <= 0) {
			return true
		}
	}
	return false
}

// Current tells whether the last interval is open: the user is a member.
func Current(intervals []Interval) bool {
	return len(intervals) > 0 && intervals[len(intervals)-1].Open()
}

// Spell returns the intervals that a user's events spell, in place order. Of events with one id, the one with the lowest
// place counts: a resend of an old invitation does not bring back who was removed since. The events are left sorted.
func Spell(events []Event) []Interval {
	slices.SortFunc(events, func(a, b Event) int { return a.Place.Compare(b.Place) })
	type id struct {
		sender im.UID
		client im.UUID
	}
	seen := make(map[id]struct{}, len(events))
	var intervals []Interval
	for _, e := range events {
		if _, repeat := seen[id{e.Sender, e.ClientID}]; repeat {
			continue
		}
		seen[id{e.Sender, e.ClientID}] = struct{}{}
		switch current := Current(intervals); {
		case e.Add && !current:
			intervals = append(intervals, Interval{From: e.Place})
		case !e.Add && current:
			intervals[len(intervals)-1].To = e.Place
		}
	}
	return intervals
}

// Title is one record's word on a group's title.
type Title struct {
	Sender   im.UID
	ClientID im.UUID
	Place    im.Place
	Create   bool
	Text     string
}

// TopTitle returns the title with the highest place, where each id stands at its lowest. The titles are left sorted.
func TopTitle(titles []Title) string {
	slices.SortFunc(titles, func(a, b Title) int { return a.Place.Compare(b.Place) })
	type id struct {
		sender im.UID
		client im.UUID
	}
	seen := make(map[id]struct{}, len(titles))
	top := ""
	for _, t := range titles {
		if _, repeat := seen[id{t.Sender, t.ClientID}]; repeat {
			continue
		}
		seen[id{t.Sender, t.ClientID}] = struct{}{}
		top = t.Text
	}
	return top
}

// TitleFor is the title for a user with these intervals: for one who left, as it was then; for one who never was a member,
// none. The titles are left sorted.
func TitleFor(titles []Title, intervals []Interval) string {
	if len(intervals) == 0 {
		return ""
	}
	if end := intervals[len(intervals)-1]; !end.Open() {
		titles = slices.DeleteFunc(slices.Clone(titles), func(t Title) bool { return t.Place.Compare(end.To) > 0 })
	}
	return TopTitle(titles)
}

// Group is what the changes of one group spell. It is not safe for concurrent use.
type Group struct {
	events  map[im.UID][]Event
	changes im.Cursor // the last event of each origin; never written to
	titles  []Title
	spelled []member // of events, sorted by uid; nil: to be spelled anew
}

type member struct {
	uid       im.UID
	intervals []Interval
}

// Add takes a change. Taking one twice is the same as once.
func (g *Group) Add(c Change) {
	for _, m := range c.Members {
		g.AddEvent(m.UID, Event{c.Sender, c.ClientID, c.Place, c.Offset, m.Add})
	}
	if c.Titled {
		g.AddTitle(Title{c.Sender, c.ClientID, c.Place, c.Create, c.Title})
	}
}

// AddEvent takes one record's word on one user.
func (g *Group) AddEvent(uid im.UID, e Event) {
	if slices.ContainsFunc(g.events[uid], func(known Event) bool { return known.Place == e.Place }) {
		return
	}
	if g.events == nil {
		g.events = map[im.UID][]Event{}
	}
	g.events[uid] = append(g.events[uid], e)
	g.spelled = nil
	if !g.changes.Covers(e.Place.Origin, e.Place.Seq) {
		g.changes = g.changes.Merge(im.Cursor{e.Place.Origin: e.Place.Seq})
	}
}

// AddTitle takes one record's word on the title.
func (g *Group) AddTitle(t Title) {
	if !slices.ContainsFunc(g.titles, func(known Title) bool { return known.Place == t.Place }) {
		g.titles = append(g.titles, t)
	}
}

// Clone returns a group that shares nothing with g.
func (g *Group) Clone() *Group {
	c := &Group{events: make(map[im.UID][]Event, len(g.events)), titles: slices.Clone(g.titles), changes: g.changes}
	for uid, events := range g.events {
		c.events[uid] = slices.Clone(events)
	}
	return c
}

// Known tells whether any record of the group was applied that made it or named a member.
func (g *Group) Known() bool { return len(g.events) > 0 || len(g.titles) > 0 }

// CreatedBy tells whether the group was created, and by which sender's record.
func (g *Group) CreatedBy() (sender im.UID, id im.UUID, ok bool) {
	for _, t := range g.titles {
		if t.Create {
			return t.Sender, t.ClientID, true
		}
	}
	return "", im.UUID{}, false
}

// Title is the group's title.
func (g *Group) Title() string { return TopTitle(g.titles) }

// Intervals are the stretches of a user's membership.
func (g *Group) Intervals(uid im.UID) []Interval { return Spell(g.events[uid]) }

// Member tells whether the user is a member now.
func (g *Group) Member(uid im.UID) bool {
	return slices.ContainsFunc(g.spell(), func(m member) bool { return m.uid == uid && Current(m.intervals) })
}

// Changes are the changes of membership that the group has taken: the last from each origin. As each origin's come in order,
// they say which ones. The cursor must not be written to.
func (g *Group) Changes() im.Cursor { return g.changes }

// Since is where the record stands that made the user a member; false: they are none now.
func (g *Group) Since(uid im.UID) (since im.Place, ok bool) {
	intervals := Spell(g.events[uid])
	if !Current(intervals) {
		return im.Place{}, false
	}
	return intervals[len(intervals)-1].From, true
}

// Moved are those whom the record at a place made members, and those whom it made none.
func (g *Group) Moved(c Change) (in, out []im.UID) {
	for _, m := range c.Members {
		for _, i := range Spell(g.events[m.UID]) {
			switch c.Place {
			case i.From:
				in = append(in, m.UID)
			case i.To:
				out = append(out, m.UID)
			}
		}
	}
	return in, out
}

// Members are the present members, sorted.
func (g *Group) Members() []im.UID {
	var uids []im.UID
	for _, m := range g.spell() {
		if Current(m.intervals) {
			uids = append(uids, m.uid)
		}
	}
	return uids
}

// Readers are those who may read what stands at a place, sorted: members at that place, and whoever the record there
// adds or removes.
func (g *Group) Readers(p im.Place) []im.UID {
	var uids []im.UID
	for _, m := range g.spell() {
		if Within(m.intervals, p) {
			uids = append(uids, m.uid)
		}
	}
	return uids
}

func (g *Group) spell() []member {
	if g.spelled == nil {
		for _, uid := range slices.Sorted(maps.Keys(g.events)) {
			g.spelled = append(g.spelled, member{uid, Spell(g.events[uid])})
		}
	}
	return g.spelled
}
