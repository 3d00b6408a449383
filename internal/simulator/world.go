package simulator

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// maxViolations ends a run: one bug breaks things by the hundred.
const maxViolations = 5

// Violation is a broken invariant.
type Violation struct {
	Invariant string // I1 to I10
	At        int64  // microseconds of simulated time
	Detail    string
}

// String shows all of it.
func (v Violation) String() string { return v.Invariant + " at " + clock(v.At) + ": " + v.Detail }

// world is one run.
type world struct {
	Options
	plan       *plan
	now        int64
	made       uint64 // events
	events     queue
	agenda     []event // what people do, in order: thousands of events that need not wait in the heap
	print      uint64
	dice       dice
	tracing    bool
	trace      []string
	violations []Violation

	regions  []*region
	devices  []*device
	convs    []im.Conversation
	truth    *truth
	submits  []*submission
	cut      [regionCount][regionCount]int // greater than 0: nothing arrives
	slow     [regionCount][regionCount]int64
	garble   [regionCount][regionCount]float64
	quiet    bool // what went wrong is over: nothing new does
	losing   bool // a region is, or was
	returned bool // the region that is lost brings what it had
	seals    map[string]int64
	decoded  map[string]*wire.Record // of late, by their bytes
	stats    Stats
}

// Stats count what a run did.
type Stats struct {
	Submits, Acked, Refused                                                int
	Records                                                                int // in the origins' own logs
	Applied                                                                int // over all regions
	Repeats, Skipped, Gaps, Fenced, Crashes, Refusals, Kicks, Lost, Events int // how often what
	Relayed                                                                int // links that opened over a third region's copy
}

func (w *world) violate(invariant, format string, args ...any) {
	v := Violation{invariant, w.now, fmt.Sprintf(format, args...)}
	w.violations = append(w.violations, v)
	if w.tracing {
		w.note("VIOLATION", "%s: %s", invariant, v.Detail)
	}
}

// uuid returns a version 7 UUID of now that nothing else has.
func (w *world) uuid(kind byte, n int) im.UUID {
	var u im.UUID
	millis := uint64(began+w.now) / 1000
	u[0], u[1] = byte(millis>>40), byte(millis>>32)
	binary.BigEndian.PutUint32(u[2:6], uint32(millis))
	u[6], u[7], u[8] = 0x70, kind, 0x80
	binary.BigEndian.PutUint32(u[12:16], uint32(n))
	return u
}

// log is one partition of a topic as it stands in one region.
type log struct {
	p       im.Partition
	family  im.Family
	origin  im.Origin
	own     bool
	name    im.LogName
	entries []im.Entry
}

// region is one of the three.
type region struct {
	w      *world
	i      int
	name   im.Region
	origin im.Origin
	logs   map[string]*log // own and copies
	order  []*log          // the same, in an order
	store  *store

	servers     [2]*server
	replicators [2]*shipper
	router      *router
	gateways    [2]*gateway
	procs       []*proc
	owner       int              // of servers, by discovery
	held        map[string]int64 // of the own log, by topic: what a peer said that it holds
	copies      map[string]*copied
	heard       [regionCount]int64 // when a replicator last heard of each region, from itself

	lost      bool // for good, or out of reach and declared so
	alone     int  // greater than 0: isolated
	appendBad float64
	storeBad  float64
	mute      float64 // of answers to clients
	deaf      float64 // of pushes
	sealed    bool    // it knows that its origin is
	declared  bool    // lost, by an operator, as the others know it; until it comes back
	mistaken  bool    // it came back as if nothing had been
}

func (r *region) log(topic string) *log { return r.logs[topic] }

// follow makes the region's logs of an origin, empty. An own log begins with its name.
func (r *region) follow(o im.Origin) {
	for _, topic := range im.Topics(o) {
		if r.logs[topic] != nil {
			continue
		}
		family, _, err := im.ParseTopic(topic)
		must(err)
		l := &log{p: im.Partition{Topic: topic}, family: family, origin: o, own: o == r.origin}
		r.logs[topic] = l
		r.order = append(r.order, l)
		if l.own {
			r.w.made++
			l.name = im.LogName{Origin: o, ID: r.w.uuid(0xee, int(r.w.made))}
			r.put(l, wire.EncodeLogName(im.KindLog, l.name, im.StampAt(r.servers[0].now())))
		}
	}
}

// put is what a broker does when it takes an entry.
func (r *region) put(l *log, e im.Entry) int64 {
	e.Partition, e.Offset = l.p, int64(len(l.entries))
	if len(l.entries) == cap(l.entries) {
		l.entries = slices.Grow(l.entries, max(64, len(l.entries))) // append alone would copy long logs more often
	}
	l.entries = append(l.entries, e)
	return e.Offset
}

// take appends entries and wakes who reads the log. Records of the own log become truth.
func (r *region) take(l *log, entries []im.Entry, records []*im.Record) int64 {
	first := int64(len(l.entries))
	for i := range entries {
		at := r.put(l, entries[i])
		if records != nil {
			if _, sealed := r.w.seals[l.p.Topic]; !sealed {
				r.w.truth.take(records[i], at)
			}
		}
	}
	r.wake(l)
	return first
}

func (r *region) wake(l *log) {
	if l.family == im.FamilyRoute {
		r.router.wake()
	} else {
		for _, s := range r.servers {
			s.wake()
		}
	}
	if l.own {
		for _, peer := range r.w.regions {
			for _, p := range peer.replicators {
				if peer != r {
					p.links[r.i].more(l)
				}
			}
		}
		return
	}
	for _, p := range r.replicators {
		p.links[r.w.of(l.origin).i].readBack(l)
	}
	for _, other := range r.w.regions {
		for _, p := range other.replicators {
			if k := p.links[r.w.of(l.origin).i]; other != r && k.sender == r {
				k.more(l)
			}
		}
	}
}

// of is the region of an origin.
func (w *world) of(o im.Origin) *region { return w.called(o.Region()) }

// called is the region with a name.
func (w *world) called(name im.Region) *region {
	for _, r := range w.regions {
		if r.name == name {
			return r
		}
	}
	panic("no region is called " + string(name))
}

// gone tells whether a process is not to start: its region is no more.
func (w *world) gone(p *proc) bool {
	r := w.regions[p.id/procsOf]
	return r.lost || r.mistaken
}

// appendTo appends on behalf of a process, as a broker over a network does: what is sent may land, or not, or late; the
// answer may come, or not. done is called in the process, unless it crashed.
func (r *region) appendTo(p *proc, l *log, entries []im.Entry, records []*im.Record, done func(first int64, ok bool)) {
	d := p.dice.between(300, 4000)
	trouble := -1
	if r.appendBad > 0 && p.dice.chance(r.appendBad) {
		trouble = p.dice.n(4)
	}
	land := func() int64 {
		if r.lost || r.logs[l.p.Topic] != l {
			return -1 // its disks are gone
		}
		at := r.take(l, entries, records)
		if r.w.tracing {
			r.w.note(string(r.name)+"/kafka", "%s takes %s as %d", l.p.Topic, what(entries), at)
		}
		return at
	}
	switch trouble {
	case 0: // lost
		p.after(500*ms, func() { done(0, false) })
	case 1: // lands after the process gave up
		p.after(500*ms, func() { done(0, false) })
		r.w.push(p.dice.between(500*ms, 4*second), nil, func() { land() })
	case 2: // lands, and nobody says so
		r.w.push(d, nil, func() { land() })
		p.after(500*ms, func() { done(0, false) })
	case 3: // a copy loses what it acknowledged
		// The receiver of a link finds that only if it looks that far back.
		if l.own || r.w.plan.window < 1<<20 {
			p.after(500*ms, func() { done(0, false) })
			return
		}
		p.after(d, func() { done(int64(len(l.entries)), true) })
	default:
		life := p.life
		r.w.push(d, nil, func() {
			at := land()
			if p.life == life && at >= 0 {
				p.after(p.dice.between(100, 1500), func() { done(at, true) })
			}
		})
	}
}

// what shows entries.
func what(entries []im.Entry) string {
	s := ""
	for i := range entries {
		h := wire.DecodeHead(&entries[i])
		if i == 3 {
			return fmt.Sprintf("%s and %d more", s, len(entries)-i)
		}
		if i > 0 {
			s += ", "
		}
		s += string(h.Kind)
		switch {
		case h.Kind == im.KindHold:
			s += fmt.Sprintf(" of generation %d", h.Generation)
		case h.Conversation != "":
			s += fmt.Sprintf(" %v in %s", h.Stamp, h.Conversation)
		}
		if h.OriginOffset != entries[i].Offset {
			s += fmt.Sprintf(" (origin offset %d)", h.OriginOffset)
		}
	}
	return s
}

// net is how long a message from one region to another takes, false if it does not arrive.
func (w *world) net(from, to *region, d *dice) (int64, bool) {
	if from == to {
		return d.between(200, 1500), true
	}
	if w.cut[from.i][to.i] > 0 || from.alone > 0 || to.alone > 0 || from.lost || to.lost {
		return 0, false
	}
	l := w.plan.latency[from.i][to.i]
	return l + d.between(0, l/4) + w.slow[from.i][to.i], true
}

// store is a region's timelines: what the production store is held to.
type store struct {
	w    *world
	r    *region
	view *view.View
	sent map[string]im.Position
	bad  spoiled
}

func newStore(r *region) *store {
	return &store{w: r.w, r: r, view: view.NewView(1), sent: map[string]im.Position{}, bad: newSpoiled()}
}

// pull answers a pull.
func (s *store) pull(q *view.PullQuery) view.Page {
	page := s.view.Pull(*q)
	s.w.Bug.mispage(s, q, &page)
	return page
}

// apply commits parts or none.
func (s *store) apply(parts []view.Part) error {
	if s.w.Bug == BugPositionUnchecked {
		for i := range parts {
			parts[i].From = s.view.Position(parts[i].Partition).Next
		}
	}
	s.w.Bug.misapply(s, parts)
	for i := range parts {
		if s.view.Position(parts[i].Partition).Next != parts[i].From {
			if err := s.view.Apply(parts); err == nil {
				s.w.violate("I8", "%s committed %v from %d although it was at %d", s.r.name, parts[i].Partition, parts[i].From, s.view.Position(parts[i].Partition).Next)
			}
			return view.ErrFenced
		}
	}
	for i := range parts {
		s.check(&parts[i])
	}
	if err := s.view.Apply(parts); err != nil {
		s.w.violate("I2", "the store of %s refuses a batch: %v", s.r.name, err)
		return err
	}
	return nil
}

// check compares what is about to be committed with the truth (I2, I5, I8).
func (s *store) check(p *view.Part) {
	if s.r.declared {
		return // what it holds beyond the seal, nobody else ever will; it will not either
	}
	seal, sealed := s.w.seals[p.Partition.Topic]
	last := p.From - 1
	for i := range p.Records {
		r := &p.Records[i]
		s.w.stats.Applied++
		k := view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin}
		t := s.w.truth.at(k, r.Place.Seq)
		switch {
		case r.Offset <= last || r.Offset >= p.To.Next:
			s.w.violate("I8", "%s applies offset %d of %v after %d, in a batch that ends before %d", s.r.name, r.Offset, p.Partition, last, p.To.Next)
			return
		case sealed && r.Offset >= seal:
			s.w.violate("I8", "%s applies offset %d of %v, which was sealed at %d", s.r.name, r.Offset, p.Partition, seal)
			return
		case t == nil:
			s.w.violate("I2", "%s applies %s/%d of %s, which its log does not have", s.r.name, k.Origin, r.Place.Seq, k.Conversation)
			return
		case t.offset != r.Offset:
			s.w.violate("I8", "%s applies offset %d of %v as %s/%d of %s, which is at offset %d", s.r.name, r.Offset, p.Partition, k.Origin, r.Place.Seq, k.Conversation, t.offset)
			return
		case t.id != r.ID || t.place != r.Place:
			s.w.violate("I5", "%s applies %s at %v of %s, which is %s at %v", s.r.name, short(r.ID), r.Place, k.Conversation, short(t.id), t.place)
			return
		}
		last = r.Offset
	}
}

// known answers an owner.
func (s *store) known(ask view.Ask) view.Facts {
	f := view.Facts{Heads: map[view.HeadKey]uint64{}, Groups: map[im.Conversation]*view.Group{}, Next: map[im.Partition]int64{}}
	for _, k := range ask.Heads {
		if n := s.view.Last(k); n > 0 {
			f.Heads[k] = n
		}
	}
	for _, c := range ask.Groups {
		if g := s.view.Group(c); g != nil {
			f.Groups[c] = g.Clone()
		}
	}
	for _, p := range ask.Partitions {
		f.Next[p] = s.view.Position(p).Next
	}
	return f
}

// short names an id.
func short(id im.ID) string {
	return fmt.Sprintf("%s's %d", id.Sender, binary.BigEndian.Uint32(id.ClientID[12:16]))
}
