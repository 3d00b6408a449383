package simulator

import (
	"slices"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/router/routes"
	"github.com/antipode-im/antipode/wire"
)

// Bug is a mistake that is built in on purpose, where the simulator hands things from one core to the next. The simulator
// is worth something if it finds each.
type Bug string

// The bugs.
const (
	BugPositionUnchecked   Bug = "position-unchecked"
	BugRemembersAfterFence Bug = "remembers-after-fence"
	BugStaleFacts          Bug = "stale-facts"
	BugSeqByArrival        Bug = "seq-by-arrival"
	BugNoSeq               Bug = "no-seq"
	BugDedupeByClock       Bug = "dedupe-by-clock"
	BugRepeatHighest       Bug = "repeat-highest"
	BugCursorsLastWrite    Bug = "cursors-last-write"
	BugMarksUncut          Bug = "marks-uncut"
	BugGapSkipped          Bug = "gap-skipped"
	BugRepeatsTaken        Bug = "repeats-taken"
	BugGenerationIgnored   Bug = "generation-ignored"
	BugGapsForgotten       Bug = "gaps-forgotten"
	BugNamesUnchecked      Bug = "names-unchecked"
	BugRelayShipsAll       Bug = "relay-ships-all"
	BugNoMarker            Bug = "no-marker"
	BugStampWallClock      Bug = "stamp-wall-clock"
	BugAckBeforeAppend     Bug = "ack-before-append"
	BugGlobalUnheld        Bug = "global-unheld"
	BugCoversTooMuch       Bug = "covers-too-much"
	BugHiddenUncovered     Bug = "hidden-uncovered"
	BugClientByID          Bug = "client-by-id"
	BugClientNoGaps        Bug = "client-no-gaps"
	BugClientKeepsPlace    Bug = "client-keeps-place"
	BugLoginIgnored        Bug = "login-ignored"
	BugDownAnyEpoch        Bug = "down-any-epoch"
	BugDownIgnored         Bug = "down-ignored"
	BugRoutesCountEarly    Bug = "routes-count-early"
)

// Mutation is a bug, what it does, and which invariants may tell of it.
type Mutation struct {
	Bug  Bug
	Does string
	By   []string
	Seed uint64 // of a run of 1,200 records that finds it soon, as long as nothing changes what runs do
}

// Bugs lists them.
func Bugs() []Mutation {
	return []Mutation{
		{BugPositionUnchecked, "a commit does not compare the position", []string{"I2", "I5", "I8"}, 5},
		{BugRemembersAfterFence, "an owner that was fenced goes on with the seqs that it remembers", []string{"I2", "I5", "I8"}, 7},
		{BugStaleFacts, "an owner numbers from what the store said at another position", []string{"I2", "I5", "I8"}, 16},
		{BugSeqByArrival, "seqs count what a region applied, of whatever origin", []string{"I2", "I5", "I8"}, 3},
		{BugNoSeq, "records are applied without a seq", []string{"I2", "I5", "I8"}, 2},
		{BugDedupeByClock, "apply drops an id that it saw within a minute of its own clock", []string{"I2", "I5", "I8"}, 3},
		{BugRepeatHighest, "of an id's places the last one written counts", []string{"I6", "I7", "I9"}, 4},
		{BugCursorsLastWrite, "of two read cursors the last one written counts", []string{"I9"}, 2},
		{BugMarksUncut, "read cursors are taken as the client says", []string{"I7"}, 6},
		{BugGapSkipped, "a reader of a copy goes on past a gap", []string{"I2", "I5", "I8"}, 8},
		{BugRepeatsTaken, "a reader of a copy takes what comes, whatever its origin offset", []string{"I2", "I5", "I8"}, 1},
		{BugGenerationIgnored, "a reader of a copy takes records of a lower link generation", []string{"I1", "I2", "I5", "I8", "I9"}, 16},
		{BugGapsForgotten, "a link does not ask again for what did not come", []string{"I8"}, 37},
		{BugNamesUnchecked, "a link opens although the log is another than the copy's", []string{"I1", "I2", "I5", "I8"}, 22},
		{BugRelayShipsAll, "a region in between ships what stands in its copy, not what a reader takes of it", []string{"I2", "I5", "I8"}, 15},
		{BugNoMarker, "a lost origin is sealed without markers in its copies", []string{"I1", "I2", "I5", "I8", "I9"}, 19},
		{BugStampWallClock, "accept stamps with the wall clock alone", []string{"I4"}, 2},
		{BugAckBeforeAppend, "accept answers before the log has the record", []string{"I1"}, 3},
		{BugGlobalUnheld, "accept answers global before a peer holds the record", []string{"I1"}, 22},
		{BugCoversTooMuch, "a page's cursor covers what did not fit the page", []string{"I7"}, 2},
		{BugHiddenUncovered, "a page's cursor leaves out repeats", []string{"I7"}, 4},
		{BugClientByID, "a client drops a record by its id alone, before it counts the seq", []string{"I6", "I7"}, 2},
		{BugClientNoGaps, "a client takes the highest seq it saw for all it has", []string{"I3", "I7"}, 4},
		{BugClientKeepsPlace, "a client leaves a message where it showed first", []string{"I6"}, 4},
		{BugLoginIgnored, "of two routes of a device the one heard of last wins", []string{"I9", "I10"}, 2},
		{BugDownAnyEpoch, "gateway_down removes routes of later epochs too", []string{"I10"}, 2},
		{BugDownIgnored, "routes of a gateway that was declared down stay", []string{"I10"}, 2},
		{BugRoutesCountEarly, "routes count before the log was read to its end", []string{"I10"}, 39},
	}
}

// stamp gives a submit its stamp.
func (b Bug) stamp(s *server, seen im.Stamp) (im.Stamp, error) {
	if b == BugStampWallClock {
		return s.proc.stamp(), nil
	}
	return s.clock.Next(s.now(), seen, im.MaxSkew)
}

// take lets a tail look at an entry.
func (b Bug) take(rd *reading, e *im.Entry) (im.Verdict, error) {
	switch b {
	case BugGapSkipped, BugRepeatsTaken, BugGenerationIgnored:
	default:
		return rd.t.Take(e)
	}
	h := wire.DecodeHead(e)
	at := rd.t.At()
	switch {
	case h.Kind == im.KindHold || rd.l.own:
	case b == BugGenerationIgnored && h.Generation < at.Generation && h.OriginOffset == at.Next && !rd.t.Moved():
		at.Generation = h.Generation
		t, err := view.NewTail(at, 1)
		must(err)
		rd.t = t
	case b == BugRepeatsTaken && h.OriginOffset != at.Next:
		copied := wire.AsCopy(*e, at.Next, h.Generation)
		return rd.t.Take(&copied)
	case b == BugGapSkipped && h.OriginOffset > at.Next && !rd.t.Moved():
		at.Next = h.OriginOffset
		t, err := view.NewTail(at, 1)
		must(err)
		rd.t = t
	}
	return rd.t.Take(e)
}

// miscut spoils a part that was cut.
func (b Bug) miscut(rd *reading, p *view.Part) {
	if b == BugGapSkipped {
		p.From = rd.next
	}
}

// misapply spoils what is about to be committed.
func (b Bug) misapply(s *store, parts []view.Part) {
	switch b {
	case BugNoSeq, BugSeqByArrival, BugDedupeByClock, BugRepeatHighest, BugCursorsLastWrite:
	default:
		return
	}
	for i := range parts {
		p := &parts[i]
		switch b {
		case BugNoSeq:
			for j := range p.Records {
				p.Records[j].Place.Seq = 0
			}
		case BugSeqByArrival:
			for j := range p.Records {
				r := &p.Records[j]
				r.Place.Seq = uint64(j + 1)
				for _, o := range s.w.truth.origins[r.Conversation] {
					r.Place.Seq += s.view.Last(view.HeadKey{Conversation: r.Conversation, Origin: o})
				}
			}
		case BugDedupeByClock:
			p.Records = slices.DeleteFunc(slices.Clone(p.Records), func(r view.Record) bool {
				_, known := s.view.Find(r.ID)
				return known && s.r.servers[0].now().UnixMilli()-r.ClientID.Millis() < 60_000
			})
		case BugRepeatHighest:
			for j := range p.Records {
				s.bad.last[p.Records[j].ID] = p.Records[j].Place
			}
		case BugCursorsLastWrite:
			for j := range p.Cursors {
				c := &p.Cursors[j]
				for o := range c.Delivered.Merge(c.Read) {
					s.bad.cursors[cursorKey{c.Conversation, c.UID, o}] = [2]uint64{c.Delivered[o], c.Read[o]}
				}
			}
		}
	}
}

// spoiled is what a store with a wrong merge keeps.
type spoiled struct {
	last    map[im.ID]im.Place
	cursors map[cursorKey][2]uint64
}

type cursorKey struct {
	c   im.Conversation
	uid im.UID
	o   im.Origin
}

func newSpoiled() spoiled {
	return spoiled{map[im.ID]im.Place{}, map[cursorKey][2]uint64{}}
}

// digest is that of the view, spoiled if need be.
func (s *store) digest() map[string]string {
	sums := s.view.Digest()
	if s.w.Bug == BugCursorsLastWrite {
		d := view.NewDigest()
		for k, v := range s.bad.cursors {
			d.Cursor(view.HeadKey{Conversation: k.c, Origin: k.o}, k.uid, v[0], v[1])
		}
		sums[view.PartCursors] = d.Sums()[view.PartCursors]
	}
	return sums
}

// mispage spoils a page.
func (b Bug) mispage(s *store, q *view.PullQuery, page *view.Page) {
	switch {
	case b == BugRepeatHighest:
		for i := range page.Records {
			r := &page.Records[i]
			r.Place = s.bad.last[r.ID]
		}
	case b == BugCoversTooMuch && page.More:
		for _, o := range s.w.truth.origins[q.Conversation] {
			page.Cursor = page.Cursor.Merge(im.Cursor{o: s.view.Last(view.HeadKey{Conversation: q.Conversation, Origin: o})})
		}
		page.More = false
	case b == BugHiddenUncovered && len(page.Repeats) > 0:
		for i := range page.Repeats {
			p := page.Repeats[i].Place
			page.Cursor[p.Origin] = min(page.Cursor[p.Origin], max(q.Cursor[p.Origin], p.Seq-1))
		}
	}
}

// add gives a client a record.
func (b Bug) add(c *chat, r *wire.Record) ([]timeline.Change, error) {
	switch b {
	case BugClientByID, BugClientKeepsPlace:
		id, err := wire.RecordID(r)
		must(err)
		if c.t.Has(id) {
			return nil, nil
		}
	case BugClientNoGaps:
		defer c.t.Skip(im.Cursor{im.Origin(r.Origin): r.Seq})
	}
	return c.t.Add(r)
}

// addPage gives a client a page.
func (b Bug) addPage(c *chat, p *wire.PullResponse) ([]timeline.Change, error) {
	switch b {
	case BugClientByID:
		p.Repeats, p.Cursor = nil, c.t.Cursor().String()
		p.Records = slices.DeleteFunc(p.Records, func(r *wire.Record) bool {
			id, err := wire.RecordID(r)
			must(err)
			return c.t.Has(id)
		})
	case BugClientKeepsPlace:
		p.Repeats = nil
		p.Records = slices.DeleteFunc(p.Records, func(r *wire.Record) bool {
			id, err := wire.RecordID(r)
			must(err)
			return c.t.Has(id)
		})
	}
	return c.t.AddPage(p)
}

// misroute spoils what a router read.
func (b Bug) misroute(entries []routes.Entry) {
	for i := range entries {
		e := &entries[i]
		switch {
		case b == BugLoginIgnored && (e.Kind == im.KindClaim || e.Kind == im.KindRelease):
			e.Route.Login = 1
		case b == BugDownAnyEpoch && e.Kind == im.KindGatewayDown:
			e.Route.Gateway.Epoch = 1 << 40
		case b == BugDownIgnored && e.Kind == im.KindGatewayDown:
			e.Kind = im.KindHeartbeat
		}
	}
}
