package simulator

import (
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// shipper is one replicator: it keeps a link open to each peer, over which that peer's log comes.
type shipper struct {
	*proc
	r      *region
	n      int
	active bool // it believes that it owns the links
	links  [regionCount]*link
}

// link is the receiver's end of a link, and the sender's of its present session.
type link struct {
	s       *shipper
	peer    *region
	ways    *replicator.Ways
	sender  *region // of the session: the peer, or one that has a copy of its log; nil before the first
	session uint64  // 0: closed
	parts   []*shipped
	heldAt  bool      // it is about to say what it holds
	last    int64     // when the last message of the session arrives: they keep their order
	back    int64     // the same, of what goes to the sender
	heard   time.Time // when the session was last seen to work
}

// shipped is one partition of a link.
type shipped struct {
	l        *log // the copy
	from     *log // the origin's log, or another region's copy of it
	check    *lastSeen
	follower im.Follower
	read     int64 // of the copy, by local offset
	open     bool
	next     int64 // the next origin offset to append
	landed   int64 // local end of what was acknowledged
	expect   int64 // the next origin offset to receive; -1: nothing is taken
	queue    []im.Entry
	busy     bool // an append is under way
	cursor   int64
	sending  bool // the sender is about to send
	told     int64
}

func newShipper(r *region, n int, p *proc) *shipper {
	s := &shipper{proc: p, r: r, n: n, active: n == 0}
	p.crash = s.closeAll
	p.start = s.openAll
	s.closeAll()
	return s
}

func (s *shipper) closeAll() {
	for i := range s.links {
		peer := s.r.w.regions[i]
		s.links[i] = &link{s: s, peer: peer, ways: s.r.w.ways(s.r, peer)}
	}
}

func (s *shipper) openAll() {
	for i, k := range s.links {
		if i != s.r.i {
			s.after(s.dice.between(10*ms, 500*ms), k.open)
		}
	}
}

// fail ends a session; another begins after a while.
func (k *link) fail(why string) { k.closed(why, k.s.w.time()) }

// closed is fail for a session that worked until a time.
func (k *link) closed(why string, heard time.Time) {
	if k.session == 0 {
		return
	}
	k.s.say("link from %s closes: %s", k.peer.name, why)
	k.session, k.parts = 0, nil
	if k.sender != k.peer && k.hearsay().Before(heard) {
		heard = k.hearsay()
	}
	k.ways.Closed(heard, k.s.w.time())
	k.s.after(k.s.dice.between(50*ms, 3*second), k.open)
}

// open asks the peer for what the copies need next.
func (k *link) open() {
	s := k.s
	if k.session != 0 || !s.active || k.peer.declared && !k.peer.mistaken {
		return
	}
	s.w.made++
	k.session, k.parts, k.heldAt, k.last, k.back = s.w.made, nil, false, 0, 0
	session := k.session
	if k.sender = s.w.called(k.ways.Way()); k.sender != k.peer {
		s.r.endRelays(k.peer)
	}
	var wants []*wire.LinkPartition
	for _, l := range s.r.order {
		if l.origin != k.peer.origin {
			continue
		}
		st := s.stand(l)
		p := &shipped{l: l, follower: st.Follower, read: int64(len(l.entries)), next: st.Next, landed: int64(len(l.entries)), expect: st.Next}
		k.parts = append(k.parts, p)
		want := &wire.LinkPartition{Topic: l.p.Topic, Next: st.Next, Checksum: st.Checksum}
		if !st.Name.IsZero() {
			want.LogId = st.Name.ID[:]
		}
		wants = append(wants, want)
	}
	d, ok := s.w.wan(s.r, k.sender, &s.dice)
	if ok {
		s.w.push(d, nil, func() { k.opened(session, wants) })
	}
	s.after(4*second, func() { // nobody answered
		if k.session == session && len(k.parts) > 0 && !k.parts[0].open {
			k.fail("no answer")
		}
	})
}

// stand is what a copy says: its last entries, and where it begins.
func (s *shipper) stand(l *log) replicator.Standing {
	entries := l.entries[max(0, len(l.entries)-s.w.plan.window):]
	st := replicator.Stand(entries, len(entries) == len(l.entries), s.r.applied(l))
	if st.Name.IsZero() && len(l.entries) > 0 {
		if n, err := wire.DecodeLogName(&l.entries[0]); err == nil {
			st.Name = n
		}
	}
	return st
}

// applied is the next origin offset that a view needs.
func (r *region) applied(l *log) int64 {
	if l.family == im.FamilyRoute {
		return 0
	}
	return r.store.view.Position(l.p).Next
}

// opened is the sender's decision, partition by partition.
func (k *link) opened(session uint64, wants []*wire.LinkPartition) {
	if k.session != session || k.sender.lost {
		return
	}
	if k.sender != k.peer {
		k.relayed(session, wants)
		return
	}
	refused := make([]bool, len(wants))
	for i, want := range wants {
		l := k.peer.logs[want.Topic]
		if l == nil || !l.own {
			refused[i] = true
			continue
		}
		why, compare := replicator.Refuses(l.p, l.name, im.Bounds{End: int64(len(l.entries))}, want)
		if why == "" && compare {
			why = replicator.Parted(l.p, &l.entries[want.Next-1], want)
		}
		if why != "" && k.s.w.Bug == BugNamesUnchecked {
			why = ""
		}
		if why != "" {
			k.s.w.stats.Refusals++
			k.s.say("%s refuses: %s", k.peer.name, why)
			refused[i] = true
		}
	}
	d, ok := k.s.w.wan(k.peer, k.s.r, &k.s.dice)
	if !ok {
		return
	}
	k.s.after(d, func() {
		if k.session != session {
			return
		}
		k.heard = k.s.w.time()
		k.ways.Open(k.heard)
		for i, p := range k.parts {
			if refused[i] {
				continue
			}
			p.open, p.from, p.cursor = true, k.peer.logs[p.l.p.Topic], wants[i].Next
			k.send(p)
		}
		k.alive(session)
	})
}

// aliveEvery is how long a link may be silent.
const aliveEvery = 5 * second

// alive notices that the other end is gone.
func (k *link) alive(session uint64) {
	k.s.after(aliveEvery, func() {
		if k.session != session {
			return
		}
		_, there := k.s.w.wan(k.s.r, k.sender, &k.s.dice)
		_, back := k.s.w.wan(k.sender, k.s.r, &k.s.dice)
		if !there || !back {
			k.closed("silence", k.heard)
			return
		}
		k.heard = k.s.w.time()
		if k.sender == k.peer {
			k.s.r.heard[k.peer.i] = k.s.w.now
		}
		if k.watchWay() {
			return
		}
		for _, p := range k.parts {
			k.readBack(p.l)
		}
		k.hold()
		k.alive(session)
	})
}

// more tells the sender that its log has grown.
func (k *link) more(l *log) {
	for _, p := range k.parts {
		if p.from == l {
			k.send(p)
		}
	}
}

// end is where the log ends of which a partition is sent, or the copy of it.
func (k *link) end(p *shipped) int64 {
	if k.sender != k.peer {
		return k.sender.copyOf(p.l.p.Topic).end()
	}
	return int64(len(p.from.entries))
}

// send sends what comes next of a partition, soon.
func (k *link) send(p *shipped) {
	if !p.open || p.sending || p.cursor < 0 || p.cursor >= k.end(p) {
		return
	}
	p.sending = true
	session, w := k.session, k.s.w
	w.push(k.s.dice.between(ms, 15*ms), nil, func() {
		if k.session != session {
			return
		}
		p.sending = false
		end := k.end(p)
		if p.cursor < 0 || p.cursor >= end || k.sender.lost {
			return
		}
		var c *copied
		if k.sender != k.peer {
			if c = k.sender.copyOf(p.l.p.Topic); c.held {
				k.fail("its origin was declared lost")
				return
			}
			if p.check != nil && (!k.compared(p, c) || p.cursor >= end) {
				return
			}
		}
		first := p.cursor
		p.cursor = min(end, first+int64(w.plan.chunk))
		var entries []im.Entry
		if c == nil {
			entries = p.from.entries[first:p.cursor]
		} else {
			for at := first; at < p.cursor; at++ {
				entries = append(entries, c.at(at))
			}
		}
		k.ship(session, p, first, entries)
		k.send(p)
	})
}

// ship puts a batch on the wire.
func (k *link) ship(session uint64, p *shipped, first int64, entries []im.Entry) {
	w := k.s.w
	d, ok := w.wan(k.sender, k.s.r, &k.s.dice)
	if !ok {
		return // a session over a cut link is noticed as silent, and what it lost is asked for again
	}
	times := 1
	if g := w.garble[k.sender.i][k.s.r.i]; g > 0 && k.s.dice.chance(g) {
		switch k.s.dice.n(3) {
		case 0:
			times = 0
		case 1:
			times = 2
		default:
			d += k.s.dice.between(0, second)
		}
	} else {
		k.last = max(k.last, w.now+d)
		d = k.last - w.now
	}
	for range times {
		k.s.after(d, func() {
			if k.session == session {
				k.offer(p, first, entries)
			}
		})
		d += k.s.dice.between(0, 300*ms)
	}
}

// offer takes a batch that came.
func (k *link) offer(p *shipped, first int64, entries []im.Entry) {
	end := first + int64(len(entries))
	switch {
	case p.expect < 0:
		return
	case first > p.expect:
		k.seek(p, p.expect)
		return
	case end <= p.expect:
		return
	}
	p.queue = append(p.queue, entries[p.expect-first:]...)
	p.expect = end
	k.append(p)
}

// seek asks the sender to go on from an offset.
func (k *link) seek(p *shipped, offset int64) {
	d, ok := k.s.w.wan(k.s.r, k.sender, &k.s.dice)
	if !ok {
		return
	}
	k.back = max(k.back, k.s.w.now+d)
	session := k.session
	k.s.w.push(k.back-k.s.w.now, nil, func() {
		if k.session == session {
			p.cursor = offset
			if p.check != nil {
				p.cursor = min(offset, p.check.offset)
			}
			k.send(p)
		}
	})
}

// append appends what is queued to the copy, one append at a time.
func (k *link) append(p *shipped) {
	if p.busy || len(p.queue) == 0 || p.expect < 0 {
		return
	}
	if p.follower.Next > p.next { // another writer was here
		skip := min(p.follower.Next-p.next, int64(len(p.queue)))
		p.queue = p.queue[skip:]
		p.next += skip
		if len(p.queue) == 0 {
			p.next = p.follower.Next
			p.expect = max(p.expect, p.next)
			return
		}
	}
	n := min(len(p.queue), 200)
	copies := make([]im.Entry, n)
	for i := range copies {
		copies[i] = wire.AsCopy(p.queue[i], p.next+int64(i), p.follower.Generation)
	}
	p.queue = p.queue[n:]
	p.busy = true
	session := k.session
	k.s.r.appendTo(k.s.proc, p.l, copies, nil, func(first int64, ok bool) {
		if k.session != session {
			return
		}
		p.busy = false
		if !ok {
			k.recover(p)
			return
		}
		p.next += int64(n)
		p.landed = first + int64(n)
		k.check(p)
		k.append(p)
	})
}

// recover reads the copy to its end and goes on from what it says.
func (k *link) recover(p *shipped) {
	session := k.session
	p.expect, p.queue = -1, nil
	k.s.after(k.s.dice.between(20*ms, 2*second), func() {
		if k.session != session {
			return
		}
		p.next, p.expect, p.landed = p.follower.Next, p.follower.Next, int64(len(p.l.entries))
		k.s.say("%v: asks again from %d", p.l.p, p.next)
		k.seek(p, p.next)
	})
}

// readBack reads what was appended to a copy, by whomever, as a view would take it.
func (k *link) readBack(l *log) {
	if !k.s.up || k.s.pause > k.s.w.now {
		return
	}
	for _, p := range k.parts {
		if p.l != l {
			continue
		}
		gap := false
		for ; p.read < int64(len(l.entries)); p.read++ {
			e := &l.entries[p.read]
			h := wire.DecodeShipHead(e)
			switch p.follower.See(h.OriginOffset, h.Generation, h.Kind == im.KindHold && h.OriginOffset < 0) {
			case im.Gap:
				gap = true
			case im.Raise, im.Seal, im.Part: // the origin was declared lost: nothing more comes over this link
				p.open, p.expect, p.queue = false, -1, nil
			}
		}
		if gap {
			k.s.say("%v has a gap at %d", l.p, p.follower.Next)
		}
		k.check(p)
		k.hold()
	}
}

// check starts over when something that was acknowledged is not in the copy.
func (k *link) check(p *shipped) {
	if p.open && !p.busy && p.expect >= 0 && p.read >= p.landed && p.follower.Next < p.next && k.s.w.Bug != BugGapsForgotten {
		k.recover(p)
	}
}

// hold tells the sender, soon, what is in the copies.
func (k *link) hold() {
	if k.heldAt || k.session == 0 {
		return
	}
	k.heldAt = true
	session := k.session
	k.s.after(100*ms, func() {
		if k.session != session {
			return
		}
		k.heldAt = false
		d, ok := k.s.w.wan(k.s.r, k.sender, &k.s.dice)
		for _, p := range k.parts {
			next, topic := p.follower.Next, p.l.p.Topic
			if next > p.told && ok {
				p.told = next
				if k.sender != k.peer {
					k.tellOn(d, p, next)
					continue
				}
				k.s.w.push(d, nil, func() { k.peer.held[topic] = max(k.peer.held[topic], next) })
			}
			// The sender forgot to go on, or what it sent was lost.
			if p.open && !p.busy && len(p.queue) == 0 && p.expect >= 0 && p.cursor > p.expect && k.last < k.s.w.now-2*second && k.s.w.Bug != BugGapsForgotten {
				k.seek(p, p.expect)
			}
		}
	})
}

// tellOn lets the region in between tell the origin what the receiver holds, as far as it holds that itself.
func (k *link) tellOn(d int64, p *shipped, next int64) {
	w, hub, topic := k.s.w, k.sender, p.l.p.Topic
	if p.check != nil { // it was not compared yet
		return
	}
	w.push(d, nil, func() {
		c := hub.copyOf(topic)
		further, ok := w.wan(hub, k.peer, &k.s.dice)
		if c == nil || !ok || hub.lost {
			return
		}
		next := min(next, c.follower.Next)
		w.push(further, nil, func() { k.peer.held[topic] = max(k.peer.held[topic], next) })
	})
}
