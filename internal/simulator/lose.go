package simulator

import (
	"fmt"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// A region that is lost for good, as design 2.4 has it: an operator lets every peer's copies raise their link generation,
// seals each partition at the highest offset that any peer has, and ships the rest to the others under that generation.
// Then the region comes back under the next origin epoch.

// loseRegion begins it: the region is out of reach.
func (w *world) loseRegion(f fault) {
	r := w.regions[f.who%regionCount]
	if w.losing {
		return
	}
	w.losing = true
	// It goes bit by bit: first one peer hears nothing any more; then a replicator of the other stops in the middle of its
	// work, and wakes when all is over.
	deaf, paused := w.regions[(r.i+1)%regionCount], w.regions[(r.i+2)%regionCount]
	w.cut[r.i][deaf.i]++
	w.push(20*ms, nil, func() { paused.replicators[0].pause = w.now + f.lasts + 5*minute })
	w.push(second, nil, func() {
		w.note2(r, "is out of reach")
		w.cut[r.i][deaf.i] = max(0, w.cut[r.i][deaf.i]-1)
		r.alone += 1 << 20
		if f.n != lostContact {
			w.halt(r)
		}
	})
	if f.n == lostMistake {
		w.push(f.lasts/4, nil, func() { w.mistake(r) })
	}
	w.push(f.lasts, nil, func() {
		w.note2(r, "is declared lost")
		r.declared = true
		for _, peer := range w.regions {
			if peer != r {
				w.seize(peer, r, 0)
			}
		}
	})
	w.push(f.lasts+3*minute, nil, func() { w.seal(r, f.n) })
}

func (w *world) note2(r *region, format string, args ...any) {
	if w.tracing {
		w.note(string(r.name), format, args...)
	}
}

// halt ends a region's processes: its disks are gone.
func (w *world) halt(r *region) {
	r.lost = true
	for _, p := range r.procs {
		if p.up {
			p.up = false
			p.life++
			p.crash()
		}
	}
	for _, d := range w.devices {
		if d.region == r && d.gateway == nil {
			d.region = w.regions[(r.i+1)%regionCount]
		}
	}
}

// mistake lets a region come back as if nothing had been: with an empty log under its old name. No link may take it.
func (w *world) mistake(r *region) {
	w.note2(r, "comes back by mistake, with empty logs")
	r.mistaken = true
	r.alone -= 1 << 20
	for _, l := range r.order {
		if !l.own {
			continue
		}
		l.entries = nil
		w.made++
		l.name.ID = w.uuid(0xbb, int(w.made))
		r.put(l, wire.EncodeLogName(im.KindLog, l.name, im.StampAt(r.servers[0].now())))
		for n := range 200 {
			if l.family != im.FamilyMsg {
				break
			}
			e := wire.EncodeRecord(&im.Record{
				ID:   im.ID{Conversation: w.convs[0], Sender: userName(0), ClientID: w.uuid(9, n)},
				Kind: im.KindMessage, Version: 1, Place: im.Place{Stamp: im.StampAt(r.servers[0].now()), Origin: r.origin},
			})
			r.put(l, e)
		}
	}
	r.lost = false // it answers links; its services do not run
	for _, peer := range w.regions {
		if peer != r {
			for _, s := range peer.replicators {
				if s.up {
					s.links[r.i].open()
				}
			}
		}
	}
}

// seizing is the link generation that the markers raise the copies to.
const seizing = 1

// seize appends a marker to a peer's copies, until all have it.
func (w *world) seize(peer, lost *region, at int) {
	topics := im.Topics(im.Origin(lost.name))
	if at == len(topics) {
		return
	}
	l := peer.log(topics[at])
	operator := &proc{w: w, id: peer.procs[0].id, name: "operator", up: true, dice: split(w.Seed^w.Salt, fmt.Sprint("seize", peer.name, at, w.now))}
	if w.Bug == BugNoMarker {
		w.seize(peer, lost, at+1)
		return
	}
	peer.appendTo(operator, l, []im.Entry{wire.EncodeHold(l.origin, seizing, peer.router.stamp())}, nil, func(_ int64, ok bool) {
		if !ok {
			w.push(second, nil, func() { w.seize(peer, lost, at) })
			return
		}
		w.seize(peer, lost, at+1)
	})
}

// seal decides where the origin ends, and makes the peers equal.
func (w *world) seal(lost *region, how int) {
	var peers []*region
	for _, p := range w.regions {
		if p != lost {
			peers = append(peers, p)
		}
	}
	origin := im.Origin(lost.name)
	if lost.mistaken {
		lost.mistaken, lost.lost = false, true
	}
	for _, topic := range im.Topics(origin) {
		var has [2]int64
		var taken [2]map[int64]im.Entry
		for i, peer := range peers {
			taken[i] = map[int64]im.Entry{}
			f := im.Follower{}
			for _, e := range peer.log(topic).entries {
				h := wire.DecodeShipHead(&e)
				if f.See(h.OriginOffset, h.Generation, h.Kind == im.KindHold && h.OriginOffset < 0) == im.Take {
					taken[i][h.OriginOffset] = e
				}
			}
			has[i] = f.Next
		}
		end := max(has[0], has[1])
		w.note2(lost, "%s is sealed at %d: the peers have %d and %d", topic, end, has[0], has[1])
		w.seals[topic] = end
		for i, peer := range peers {
			var rest []im.Entry
			for at := has[i]; at < end; at++ {
				generation := uint32(seizing)
				if w.Bug == BugNoMarker {
					generation = 0
				}
				rest = append(rest, wire.AsCopy(taken[1-i][at], at, generation))
			}
			if w.Bug != BugNoMarker {
				rest = append(rest, wire.EncodeSeal(origin, seizing, end, peer.router.stamp()))
			}
			peer.take(peer.log(topic), rest, nil)
		}
		if family, _, _ := im.ParseTopic(topic); family == im.FamilyMsg {
			w.truth.seal(topic, end)
		}
	}
	w.push(3*minute, nil, func() { w.comeBack(lost, peers[0], how) })
}

// comeBack lets a lost region return under the next epoch: its view is derived anew from what the peers hold of all
// origins. What it alone had accepted goes into its new log, under the same ids and stamps.
func (w *world) comeBack(r, from *region, how int) {
	w.note2(r, "comes back under the next epoch")
	old := r.origin
	var remainder []*im.Record
	if how == lostContact {
		w.halt(r)
		for _, l := range r.order {
			if l.origin != old || l.family != im.FamilyMsg {
				continue
			}
			for i := w.seals[l.p.Topic]; i < int64(len(l.entries)); i++ {
				if h := wire.DecodeHead(&l.entries[i]); h.Conversation != "" {
					rec, err := wire.DecodeRecord(&l.entries[i], h)
					must(err)
					rec.Place.Seq = 0
					remainder = append(remainder, &rec)
				}
			}
		}
	}
	r.origin = im.NewOrigin(r.name, 2)
	r.logs, r.order = map[string]*log{}, nil
	r.store = newStore(r)
	r.held = map[string]int64{}
	for _, other := range w.regions {
		r.follow(im.Origin(other.name))
	}
	// The copies are what the peers have: the sealed origin's as it is in one of them, and those of the others from nothing,
	// over links.
	for _, topic := range im.Topics(old) {
		l := r.log(topic)
		l.own = false
		for _, e := range from.log(topic).entries {
			r.put(l, e)
		}
	}
	for _, region := range w.regions {
		region.follow(r.origin)
	}
	for _, rec := range remainder {
		rec.Place.Origin = r.origin
		r.take(r.log(im.MsgTopic(r.origin, rec.Conversation.Lane())), []im.Entry{wire.EncodeRecord(rec)}, []*im.Record{rec})
	}
	r.lost, r.declared, r.sealed = false, false, false
	r.alone = 0
	for _, p := range r.procs {
		p.revive()
	}
	for _, other := range w.regions { // everybody hears of the new origin when it starts
		for _, p := range other.procs {
			if other != r && p.up {
				w.push(p.dice.between(0, 20*second), nil, func() { p.die(second) })
			}
		}
	}
	for _, d := range w.devices { // what they saw of the sealed part is not what anybody else ever will
		for _, c := range d.chats {
			c.forget(old)
		}
	}
}

// forget makes a chat anew if it has seen what was sealed away.
func (c *chat) forget(old im.Origin) {
	k := view.HeadKey{Conversation: c.c, Origin: old}
	if c.t.Cursor()[old] > uint64(len(c.d.w.truth.streams[k])) || !c.t.Complete() {
		c.restart()
	}
}

func (c *chat) restart() {
	c.t, c.given, c.high, c.acked = timeline.New(c.c, timeline.Limits{}), map[im.UUID]bool{}, 0, 0
	c.pull()
}
