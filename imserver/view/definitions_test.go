package view

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/wire"
)

// checkDefinitions reads the logs once more, in the plainest way, without anything of this package, and compares what
// the definitions say with what the view answers.
func checkDefinitions(logs *viewtest.Logs, v *View) string {
	type rec struct {
		im.Record
		shown bool
	}
	all := map[im.Conversation][]rec{}
	for p, entries := range logs.Entries {
		family, origin, _ := im.ParseTopic(p.Topic)
		if family != im.FamilyMsg {
			continue
		}
		seqs := map[im.Conversation]uint64{}
		for i := range entries {
			h := wire.DecodeHead(&entries[i])
			if h.Conversation == "" || h.Kind == "" || h.Kind == "Mess\xffage" {
				continue
			}
			if im.MsgTopic(origin, h.Conversation.Lane()) != p.Topic || wire.Partition(string(h.Conversation), logs.Count) != p.Number {
				continue
			}
			seqs[h.Conversation]++
			r, err := wire.DecodeRecord(&entries[i], h)
			if r.Place.Stamp == 1<<64-1 {
				r.Place.Stamp = 0
			}
			r.Place.Seq, r.Place.Origin = seqs[h.Conversation], origin
			shown := err == nil && r.Sender != "a\x00b" && r.Known() && (r.Kind != im.KindMessage || proto.Unmarshal(r.Body, new(wire.Text)) == nil)
			if err != nil || r.Sender == "a\x00b" {
				r.Sender, r.ClientID = "", im.UUID{}
			}
			all[h.Conversation] = append(all[h.Conversation], rec{r, shown})
		}
	}
	for c, records := range all {
		slices.SortFunc(records, func(a, b rec) int { return a.Place.Compare(b.Place) })
		heads := im.Cursor{}
		lowest := map[im.ID]im.Place{}
		for _, r := range records {
			heads[r.Place.Origin]++
			if _, ok := lowest[r.ID]; !ok && r.Sender != "" {
				lowest[r.ID] = r.Place
			}
		}
		for o, n := range heads {
			if got := v.Last(HeadKey{c, o}); got != n {
				return fmt.Sprintf("%s: the last seq of %s is %d, want %d", c, o, got, n)
			}
		}
		for _, uid := range logs.Users {
			// Walk through the records in place order, keeping who is a member.
			member, ever, removedAt := slices.Contains(c.Members(), uid), slices.Contains(c.Members(), uid), im.Place{}
			seen := map[im.ID]bool{}
			var want []string
			for _, r := range records {
				before := member
				if r.shown && c.Members() == nil && !seen[r.ID] {
					if add, ok := named(r.Record, uid); ok {
						seen[r.ID] = true
						member = add
						ever = ever || add
						if before && !add {
							removedAt = r.Place
						}
					}
				}
				if r.shown && (before || member) && lowest[r.ID] == r.Place {
					want = append(want, fmt.Sprintf("%v %s %s %x", r.Place, r.Sender, r.ClientID, r.Body))
				}
			}
			got, cursor, err := pullAll(v, uid, c, 3)
			if err != nil {
				return err.Error()
			}
			slices.Sort(want)
			if !slices.Equal(got, want) {
				return fmt.Sprintf("%s pulls %s: got %q, want %q", uid, c, got, want)
			}
			if member && cursor.String() != heads.String() {
				return fmt.Sprintf("%s pulls %s to %v, want all of %v", uid, c, cursor, heads)
			}
			if !ever && len(cursor) > 0 {
				return fmt.Sprintf("%s was never in %s and learns %v", uid, c, cursor)
			}
			if ever && !member {
				for _, r := range records {
					if removedAt.Before(r.Place) && cursor.Covers(r.Place.Origin, r.Place.Seq) && noneAfter(records, r.Place, removedAt, func(x rec) im.Place { return x.Place }) {
						return fmt.Sprintf("%s left %s at %v and still covers %v", uid, c, removedAt, r.Place)
					}
				}
			}
		}
	}
	got := 0
	for _, c := range v.conversations {
		if len(c.streams) > 0 { // else cursors are all there is of it
			got++
		}
	}
	if want := slices.Sorted(maps.Keys(all)); len(want) != got {
		return fmt.Sprintf("the view has %d conversations, want %d", got, len(want))
	}
	return ""
}

// noneAfter tells whether everything of p's origin from p on stands after end: then nothing there can have been covered
// on the way to something earlier.
func noneAfter[R any](records []R, p, end im.Place, place func(R) im.Place) bool {
	for _, r := range records {
		if q := place(r); q.Origin == p.Origin && q.Seq >= p.Seq && !end.Before(q) {
			return false
		}
	}
	return true
}

// named tells what a record says of a user's membership.
func named(r im.Record, uid im.UID) (add, named bool) {
	switch r.Kind {
	case im.KindCreate:
		var b wire.Create
		if proto.Unmarshal(r.Body, &b) == nil {
			return true, r.Sender == uid || slices.Contains(b.Members, string(uid))
		}
	case im.KindMember:
		var b wire.Member
		if proto.Unmarshal(r.Body, &b) == nil {
			if slices.Contains(b.Remove, string(uid)) {
				return false, true
			}
			return true, slices.Contains(b.Add, string(uid))
		}
	}
	return false, false
}
