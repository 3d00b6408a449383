package simulator

import (
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/replicator"
	"github.com/antipode-im/antipode/wire"
)

// Logs that come from a third region's copy, because two regions reach each other through a hub alone, or since their link has
// not worked for a while (ADR 083).

// topology is which regions reach each other, and from whose copies logs may be taken.
type topology struct {
	hub      int   // the region through which alone the other two reach each other; -1: there is none
	via      bool  // the other two are configured to take each other's logs from the hub, always
	standIns bool  // any region stands in where a link does not work
	patience int64 // for how long it must not have worked
}

func makeTopology(o *Options) topology {
	d := split(o.Seed, "ways")
	t := topology{hub: -1, patience: d.between(second, 10*second)}
	switch n := d.n(100); {
	case n < 25:
		t.hub, t.via = d.n(regionCount), d.chance(0.5)
		t.standIns = !t.via || d.chance(0.5)
	case n < 60:
		t.standIns = true
	}
	return t
}

// apart tells whether two regions never reach each other.
func (t *topology) apart(a, b *region) bool {
	return t.hub >= 0 && a != b && a.i != t.hub && b.i != t.hub
}

// first is the region over which a log comes as long as that works.
func (t *topology) first(to, peer *region) *region {
	if t.via && t.apart(to, peer) {
		return to.w.regions[t.hub]
	}
	return peer
}

// ways are those from a peer to a region.
func (w *world) ways(to, peer *region) *replicator.Ways {
	first := w.plan.first(to, peer)
	var others []im.Region
	for _, r := range w.regions {
		if r != to && r != peer && r != first && w.plan.standIns {
			others = append(others, r.name)
		}
	}
	return replicator.NewWays(first.name, others, time.Duration(w.plan.patience)*time.Microsecond, time.Duration(aliveEvery)*time.Microsecond, w.time())
}

func (w *world) time() time.Time { return time.UnixMicro(began + w.now) }

// wan is net for what regions send each other. (Clients have ways of their own.)
func (w *world) wan(from, to *region, d *dice) (int64, bool) {
	if w.plan.apart(from, to) {
		return 0, false
	}
	return w.net(from, to, d)
}

// copied is a copy as whoever ships the log from it reads it: what a follower takes, under the origin's offsets.
type copied struct {
	from     *log
	follower im.Follower
	read     int
	taken    []int // by origin offset, where it stands
	held     bool  // the origin was declared lost: what comes after the marker is not shipped
}

// copyOf is the region's copy of a log, read to its end; nil if there is none.
func (r *region) copyOf(topic string) *copied {
	l := r.logs[topic]
	if l == nil || l.own {
		return nil
	}
	c := r.copies[topic]
	if c == nil || c.from != l {
		c = &copied{from: l}
		r.copies[topic] = c
	}
	for ; c.read < len(l.entries) && !c.held; c.read++ {
		h := wire.DecodeShipHead(&l.entries[c.read])
		verdict := c.follower.See(h.OriginOffset, h.Generation, h.Marker())
		if verdict == im.Take || r.w.Bug == BugRelayShipsAll && !h.Marker() {
			c.taken = append(c.taken, c.read)
		}
		c.held = c.follower.Generation > 0
	}
	return c
}

// at is the record at an offset of the origin's log.
func (c *copied) at(offset int64) im.Entry {
	e := c.from.entries[c.taken[offset]]
	e.Offset = offset
	return e
}

func (c *copied) end() int64 { return int64(len(c.taken)) }

// name is that of the origin's log, zero before anything came.
func (c *copied) name() im.LogName {
	if len(c.taken) == 0 {
		return im.LogName{}
	}
	n, _ := wire.DecodeLogName(&c.from.entries[c.taken[0]])
	return n
}

// relays tells whether a region takes a peer's log from a copy, or means to: then it gives it to nobody.
func (r *region) relays(peer *region) bool {
	for _, s := range r.replicators {
		if k := s.links[peer.i]; s.up && s.active && k.ways.Way() != peer.name {
			return true
		}
	}
	return false
}

// endRelays ends the links over which others take a peer's log from the copy of a region.
func (r *region) endRelays(peer *region) {
	for _, other := range r.w.regions {
		for _, s := range other.replicators {
			if k := s.links[peer.i]; other != r && k.sender == r && peer != r {
				k.fail("the region in between takes it from a copy itself now")
			}
		}
	}
}

// lastSeen is a record that the receiver has and the copy has not: it is compared when that gets there.
type lastSeen struct {
	offset   int64
	checksum uint64 // 0: it is not to be compared
}

// continues is the decision of a region in between about one partition.
func (c *copied) continues(p im.Partition, want *wire.LinkPartition) (why string, check *lastSeen) {
	if c.held {
		return "its origin was declared lost", nil
	}
	why, compare := replicator.Refuses(p, c.name(), im.Bounds{End: max(c.end(), want.Next)}, want)
	if c.end() == 0 && (want.Next == 0 || want.Checksum != 0) { // what comes tells its name
		why, compare = "", true
	}
	switch {
	case why != "" || want.Next == 0:
	case want.Next > c.end():
		check = &lastSeen{offset: want.Next - 1}
		if compare {
			check.checksum = want.Checksum
		}
	case compare:
		e := c.at(want.Next - 1)
		why = replicator.Parted(p, &e, want)
	}
	return why, check
}

// relayed is opened where the sender has a copy.
func (k *link) relayed(session uint64, wants []*wire.LinkPartition) {
	w, why := k.s.w, ""
	checks := make([]*lastSeen, len(wants))
	if k.sender.relays(k.peer) {
		why = "it takes that log from a copy itself"
	}
	for i, want := range wants {
		if why != "" {
			break
		}
		c := k.sender.copyOf(want.Topic)
		if c == nil {
			why = "it has no copy of " + want.Topic
			break
		}
		why, checks[i] = c.continues(im.Partition{Topic: want.Topic}, want)
	}
	d, ok := w.wan(k.sender, k.s.r, &k.s.dice)
	if !ok {
		return
	}
	k.s.after(d, func() {
		if k.session != session {
			return
		}
		if why != "" {
			w.stats.Refusals++
			k.fail(string(k.sender.name) + " refuses: " + why)
			return
		}
		w.stats.Relayed++
		k.heard = w.time()
		k.ways.Open(k.heard)
		for i, p := range k.parts {
			p.open, p.from, p.cursor, p.check = true, k.sender.logs[p.l.p.Topic], wants[i].Next, checks[i]
			if p.check != nil {
				p.cursor = p.check.offset
			}
			k.send(p)
		}
		k.alive(session)
	})
}

// compared compares the record that the receiver had before the copy; false if the link ended.
func (k *link) compared(p *shipped, c *copied) bool {
	e := c.at(p.check.offset)
	if sum := wire.Checksum(&e); p.check.checksum != 0 && sum != p.check.checksum {
		k.fail("the logs have parted")
		return false
	}
	p.check = nil
	p.cursor++
	return true
}

// hearsay is when the region in between heard of the origin last.
func (k *link) hearsay() time.Time { return time.UnixMicro(began + k.sender.heard[k.peer.i]) }

// watchWay leaves a way over a region in between when the first one works, or when that region has not heard of the origin
// for long.
func (k *link) watchWay() (left bool) {
	w := k.s.w
	now := w.time()
	if wait, standing := k.ways.Look(now); standing && wait == 0 {
		first := w.plan.first(k.s.r, k.peer)
		_, there := w.wan(k.s.r, first, &k.s.dice)
		_, back := w.wan(first, k.s.r, &k.s.dice)
		if k.ways.LookedAt(there && back, now) {
			k.fail("the way that it stands in for works again")
			return true
		}
	}
	if k.sender != k.peer && k.ways.GiveUp(k.hearsay(), now) {
		k.fail("the region in between has not heard of it for long")
		return true
	}
	return false
}
