// Package checker decides whether what clients and regions saw keeps the invariants I1–I9 of docs/architecture.md.
//
// It is a pure function from a recorded history to violations: the demo, the fault suite and game days record, this
// package judges. A history that lacks something (no logs were scanned, say) is judged by what it has; Summary counts what
// was looked at, so that an empty history cannot pass for a good one.
package checker

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/antipode-im/antipode/im"
)

// Submit is one record that a client sent, and the answer.
type Submit struct {
	ID    im.ID
	Conn  string   // names the conn; submits of one conn and conversation are listed in the order they were sent
	Seen  im.Stamp // the highest stamp the sender had seen in the conversation
	Acked bool
	Ack   im.Ack // valid if Acked
}

// Sighting is a record as somebody saw it.
type Sighting struct {
	ID    im.ID
	Place im.Place
}

// Logged is a record of a conversation as it stands in its origin's log, or in a copy of it.
type Logged struct {
	Origin im.Origin
	ID     im.ID
	Stamp  im.Stamp
	In     im.Region // whose Kafka it was read from; empty: the origin's
}

// Page is one answer to a pull.
type Page struct {
	Asked, Returned im.Cursor
	Records         []Sighting // what it held, repeats included
}

// Timeline is what one region holds of one conversation.
type Timeline struct {
	Region       im.Region
	Conversation im.Conversation
	Records      []Sighting // every record that takes a seq, repeats included, in any order
	Shown        []Sighting // the visible messages in the order they are displayed
	Pages        []Page     // by which it was pulled from the beginning
	Unfinished   bool       // a pull with the final cursor still returned something (I7)
}

// Receiver is what one client of a conversation emitted.
type Receiver struct {
	Name         string
	Conversation im.Conversation
	Emitted      []im.ID    // one for each time a message was given to the application
	Shown        []Sighting // its timeline at the end, in order
}

// Behind is a partition in which a region's view has not applied its log to the end (I8).
type Behind struct {
	Region    im.Region
	Partition im.Partition
	Next, End int64
}

// History is what was recorded.
type History struct {
	Submits   []Submit
	Logs      []Logged
	Timelines []Timeline
	Receivers []Receiver
	Behind    []Behind
	Digests   map[im.Region]map[string]string // part of the view → digest
}

// Violation is one broken invariant.
type Violation struct {
	Invariant string // I1 to I9
	Detail    string
}

// String shows both.
func (v Violation) String() string { return v.Invariant + ": " + v.Detail }

// maxPerInvariant bounds the list: one bug breaks an invariant thousands of times.
const maxPerInvariant = 5

type report struct {
	violations []Violation
	counts     map[string]int
}

func (r *report) add(invariant, format string, args ...any) {
	r.counts[invariant]++
	if r.counts[invariant] <= maxPerInvariant {
		r.violations = append(r.violations, Violation{invariant, fmt.Sprintf(format, args...)})
	}
}

// Check returns what is broken, at most five details for each invariant, in the order of the invariants.
func Check(h *History) []Violation {
	r := &report{counts: map[string]int{}}
	r.acked(h)
	r.dense(h)
	r.order(h)
	r.causal(h)
	r.fixed(h)
	r.once(h)
	r.pulled(h)
	r.positions(h)
	r.digests(h)
	slices.SortStableFunc(r.violations, func(a, b Violation) int { return cmp.Compare(a.Invariant, b.Invariant) })
	for _, invariant := range slices.Sorted(maps.Keys(r.counts)) {
		if n := r.counts[invariant]; n > maxPerInvariant {
			r.violations = append(r.violations, Violation{invariant, fmt.Sprintf("and %d more", n-maxPerInvariant)})
		}
	}
	return r.violations
}

// home tells whether it was read where its origin writes.
func (l *Logged) home() bool { return l.In == "" || l.In == l.Origin.Region() }

// acked: I1, an acked record is in its origin's log, one that was acked as global in another region's copy too, and every
// region shows it.
func (r *report) acked(h *History) {
	type key struct {
		id     im.ID
		origin im.Origin
		stamp  im.Stamp
	}
	logged, copied := make(map[key]bool, len(h.Logs)), map[key]bool{}
	own, copies := map[im.Origin]bool{}, false // whose own logs were read, and whether anybody's copies were
	for _, l := range h.Logs {
		own[l.Origin] = own[l.Origin] || l.home()
		copies = copies || !l.home()
	}
	for _, l := range h.Logs {
		k := key{l.ID, l.Origin, l.Stamp}
		if !l.home() {
			copied[k] = true
		}
		if l.home() || !own[l.Origin] { // of an origin that is lost there are copies only
			logged[k] = true
		}
	}
	shown := map[im.Region]map[im.ID]bool{}
	for _, t := range h.Timelines {
		if shown[t.Region] == nil {
			shown[t.Region] = map[im.ID]bool{}
		}
		for _, s := range t.Shown {
			shown[t.Region][s.ID] = true
		}
	}
	for _, s := range h.Submits {
		if !s.Acked {
			continue
		}
		if len(h.Logs) > 0 && !logged[key{s.ID, s.Ack.Origin, s.Ack.Stamp}] {
			r.add("I1", "%s was acked by %s at %v but is not in its log", name(s.ID), s.Ack.Origin, s.Ack.Stamp)
		}
		if copies && s.Ack.Global && !copied[key{s.ID, s.Ack.Origin, s.Ack.Stamp}] {
			r.add("I1", "%s was acked as global by %s at %v but no other region's copy has it", name(s.ID), s.Ack.Origin, s.Ack.Stamp)
		}
		for region, ids := range shown {
			if !ids[s.ID] {
				r.add("I1", "%s was acked by %s but region %s does not show it", name(s.ID), s.Ack.Origin, region)
			}
		}
	}
}

// dense: I2, each region holds each origin's stream as 1..n without a gap, and the same ones.
func (r *report) dense(h *History) {
	type stream struct {
		conversation im.Conversation
		origin       im.Origin
	}
	longest := map[stream]int{}
	held := map[stream]map[im.Region]int{}
	for _, t := range h.Timelines {
		seqs := map[im.Origin][]uint64{}
		for _, s := range t.Records {
			seqs[s.Place.Origin] = append(seqs[s.Place.Origin], s.Place.Seq)
		}
		for origin, list := range seqs {
			slices.Sort(list)
			for i, seq := range list {
				if seq != uint64(i+1) {
					r.add("I2", "region %s holds %s of origin %s with seq %d where %d must stand", t.Region, t.Conversation, origin, seq, i+1)
					break
				}
			}
			k := stream{t.Conversation, origin}
			longest[k] = max(longest[k], len(list))
			if held[k] == nil {
				held[k] = map[im.Region]int{}
			}
			held[k][t.Region] = len(list)
		}
	}
	regions := map[im.Conversation][]im.Region{}
	for _, t := range h.Timelines {
		regions[t.Conversation] = append(regions[t.Conversation], t.Region)
	}
	for k, n := range longest {
		for _, region := range regions[k.conversation] {
			if held[k][region] != n {
				r.add("I2", "region %s holds %d of %d records of %s from origin %s", region, held[k][region], n, k.conversation, k.origin)
			}
		}
	}
}

// order: I3, all regions and all clients show a conversation in the same order, by place.
func (r *report) order(h *History) {
	type view struct {
		who   string
		shown []Sighting
	}
	byConversation := map[im.Conversation][]view{}
	for _, t := range h.Timelines {
		byConversation[t.Conversation] = append(byConversation[t.Conversation], view{"region " + string(t.Region), t.Shown})
	}
	for _, c := range h.Receivers {
		byConversation[c.Conversation] = append(byConversation[c.Conversation], view{"client " + c.Name, c.Shown})
	}
	for conversation, views := range byConversation {
		for _, v := range views {
			for i := 1; i < len(v.shown); i++ {
				if !v.shown[i-1].Place.Before(v.shown[i].Place) {
					r.add("I3", "%s shows %s before %s in %s", v.who, v.shown[i-1].Place, v.shown[i].Place, conversation)
					break
				}
			}
			first := views[0]
			if len(v.shown) != len(first.shown) {
				r.add("I3", "%s shows %d messages of %s, %s shows %d", v.who, len(v.shown), conversation, first.who, len(first.shown))
				continue
			}
			for i := range v.shown {
				if v.shown[i] != first.shown[i] {
					r.add("I3", "%s shows %s at number %d of %s, %s shows %s", v.who, name(v.shown[i].ID), i, conversation, first.who, name(first.shown[i].ID))
					break
				}
			}
		}
	}
}

// causal: I4, an ack's stamp is after what its sender had seen and after its earlier submits on that conn.
func (r *report) causal(h *History) {
	type key struct {
		conn         string
		conversation im.Conversation
	}
	last := map[key]Submit{}
	for _, s := range h.Submits {
		if !s.Acked {
			continue
		}
		if s.Ack.Stamp <= s.Seen {
			r.add("I4", "%s was stamped %v though its sender had seen %v", name(s.ID), s.Ack.Stamp, s.Seen)
		}
		k := key{s.Conn, s.ID.Conversation}
		if p, ok := last[k]; ok && s.Ack.Stamp <= p.Ack.Stamp {
			r.add("I4", "%s was stamped %v, not after %s at %v, sent before it on conn %s", name(s.ID), s.Ack.Stamp, name(p.ID), p.Ack.Stamp, s.Conn)
		}
		last[k] = s
	}
}

// fixed: I5, whoever saw (conversation, origin, seq) saw the same id and stamp there.
func (r *report) fixed(h *History) {
	type key struct {
		conversation im.Conversation
		origin       im.Origin
		seq          uint64
	}
	at := map[key]Sighting{}
	see := func(who string, c im.Conversation, sightings []Sighting) {
		for _, s := range sightings {
			k := key{c, s.Place.Origin, s.Place.Seq}
			if first, ok := at[k]; !ok {
				at[k] = s
			} else if first != s {
				r.add("I5", "%s saw %s at %s; another saw %s at %s", who, name(s.ID), s.Place, name(first.ID), first.Place)
			}
		}
	}
	for _, t := range h.Timelines {
		see("region "+string(t.Region), t.Conversation, t.Records)
		see("region "+string(t.Region), t.Conversation, t.Shown)
	}
	for _, c := range h.Receivers {
		see("client "+c.Name, c.Conversation, c.Shown)
	}
}

// once: I6, one visible message per id, at the lowest place of its records; clients emit it once.
func (r *report) once(h *History) {
	for _, t := range h.Timelines {
		lowest := map[im.ID]im.Place{}
		for _, s := range t.Records {
			if p, ok := lowest[s.ID]; !ok || s.Place.Before(p) {
				lowest[s.ID] = s.Place
			}
		}
		seen := map[im.ID]bool{}
		for _, s := range t.Shown {
			if seen[s.ID] {
				r.add("I6", "region %s shows %s twice", t.Region, name(s.ID))
			}
			seen[s.ID] = true
			if p, ok := lowest[s.ID]; ok && p != s.Place {
				r.add("I6", "region %s shows %s at %s; its lowest place is %s", t.Region, name(s.ID), s.Place, p)
			}
		}
	}
	for _, c := range h.Receivers {
		emitted := map[im.ID]bool{}
		for _, id := range c.Emitted {
			if emitted[id] {
				r.add("I6", "client %s was given %s twice", c.Name, name(id))
			}
			emitted[id] = true
		}
		for _, s := range c.Shown {
			if !emitted[s.ID] {
				r.add("I6", "client %s shows %s but never gave it to the application", c.Name, name(s.ID))
			}
		}
	}
}

// pulled: I7, a cursor only grows, pulling with one returns nothing that it covers, and pulling until empty returns everything.
func (r *report) pulled(h *History) {
	for _, t := range h.Timelines {
		type number struct {
			origin im.Origin
			seq    uint64
		}
		returned, covered := map[number]bool{}, im.Cursor{}
		for _, p := range t.Pages {
			if !p.Returned.CoversAll(p.Asked) {
				r.add("I7", "region %s was asked for %s from the cursor %v and returned %v, which is behind it", t.Region, t.Conversation, p.Asked, p.Returned)
			}
			for _, s := range p.Records {
				if p.Asked.Covers(s.Place.Origin, s.Place.Seq) {
					r.add("I7", "region %s returned %s at %s, which the cursor %v covers", t.Region, name(s.ID), s.Place, p.Asked)
				}
				if !p.Returned.Covers(s.Place.Origin, s.Place.Seq) {
					r.add("I7", "region %s returned %s at %s with the cursor %v, which does not cover it", t.Region, name(s.ID), s.Place, p.Returned)
				}
				returned[number{s.Place.Origin, s.Place.Seq}] = true
			}
			covered = p.Returned
		}
		for _, origin := range slices.Sorted(maps.Keys(covered)) {
			for seq := uint64(1); seq <= covered[origin]; seq++ {
				if !returned[number{origin, seq}] {
					r.add("I7", "region %s covers %s of %s with the cursor %v, but no pull returned seq %d", t.Region, origin, t.Conversation, covered, seq)
					break
				}
			}
		}
		if t.Unfinished {
			r.add("I7", "region %s returned records of %s for the cursor that covers them all", t.Region, t.Conversation)
		}
	}
}

// positions: I8, every log was applied to its end, and each of its records as often as it is in it.
func (r *report) positions(h *History) {
	for _, b := range h.Behind {
		r.add("I8", "region %s applied %v up to %d; the log ends at %d", b.Region, b.Partition, b.Next, b.End)
	}
	type key struct {
		id     im.ID
		origin im.Origin
		stamp  im.Stamp
	}
	logged := map[im.Conversation]map[key]int{}
	read := map[im.Origin]bool{} // whose own logs were read: copies may be behind
	for _, l := range h.Logs {
		if !l.home() {
			continue
		}
		read[l.Origin] = true
		c := l.ID.Conversation
		if logged[c] == nil {
			logged[c] = map[key]int{}
		}
		logged[c][key{l.ID, l.Origin, l.Stamp}]++
	}
	for _, t := range h.Timelines {
		applied := map[key]int{}
		for _, s := range t.Records {
			if read[s.Place.Origin] {
				applied[key{s.ID, s.Place.Origin, s.Place.Stamp}]++
			}
		}
		for k, times := range applied {
			if n := logged[t.Conversation][k]; times > n {
				r.add("I8", "region %s applied %s %d times, stamped %v by %s; the log has it %d times", t.Region, name(k.id), times, k.stamp, k.origin, n)
			}
		}
		for k, n := range logged[t.Conversation] {
			if times := applied[k]; times < n {
				r.add("I8", "region %s skipped %s, stamped %v by %s: it applied it %d times; the log has it %d times", t.Region, name(k.id), k.stamp, k.origin, times, n)
			}
		}
	}
}

// digests: I9, all regions' views are equal.
func (r *report) digests(h *History) {
	regions := slices.Sorted(maps.Keys(h.Digests))
	for i, region := range regions {
		first := h.Digests[regions[0]]
		if i > 0 && !maps.Equal(h.Digests[region], first) {
			r.add("I9", "digests of %s and %s differ: %v and %v", region, regions[0], h.Digests[region], first)
		}
	}
}

// Summary counts what a history holds.
type Summary struct {
	Sent, Acked  int
	ReceivedOnce int // acked messages that every client of their conversation emitted exactly once
	Regions      int // whose timelines were compared
	Digests      int // regions whose digests were compared
}

// Summarize counts.
func Summarize(h *History) Summary {
	s := Summary{Sent: len(h.Submits), Digests: len(h.Digests)}
	clients := map[im.Conversation]int{}
	emitted := map[im.ID]map[string]int{}
	for _, c := range h.Receivers {
		clients[c.Conversation]++
		for _, id := range c.Emitted {
			if emitted[id] == nil {
				emitted[id] = map[string]int{}
			}
			emitted[id][c.Name]++
		}
	}
	for _, sub := range h.Submits {
		if !sub.Acked {
			continue
		}
		s.Acked++
		once := 0
		for _, n := range emitted[sub.ID] {
			if n == 1 {
				once++
			}
		}
		if n := clients[sub.ID.Conversation]; n > 0 && once == n {
			s.ReceivedOnce++
		}
	}
	regions := map[im.Region]bool{}
	for _, t := range h.Timelines {
		regions[t.Region] = true
	}
	s.Regions = len(regions)
	return s
}

func name(id im.ID) string {
	return fmt.Sprintf("message %s of %s in %s", id.ClientID, id.Sender, id.Conversation)
}
