package timeline

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// world is a dumb model of the regions: every origin's log of one conversation, and per region how much of each it holds.
type world struct {
	logs map[im.Origin][]*wire.Record
	held map[im.Region]im.Cursor
}

var regions = []im.Region{"ap", "eu", "us"}

func drawWorld(t *rapid.T) *world {
	w := &world{logs: map[im.Origin][]*wire.Record{}, held: map[im.Region]im.Cursor{}}
	for _, r := range regions {
		o := im.Origin(r)
		n := rapid.IntRange(0, 12).Draw(t, "records of "+string(o))
		stamp := uint64(0)
		for seq := range n {
			stamp += rapid.Uint64Range(1, 9).Draw(t, "stamp")
			id := rapid.IntRange(1, 15).Draw(t, "id") // few, so that ids repeat
			rec := &wire.Record{
				Conversation: string(conversation), Kind: "message", Version: 1, Sender: "ann", ClientId: number(id).String(),
				Stamp: stamp, Origin: string(o), Seq: uint64(seq + 1),
				Content: &wire.RecordText{Text: &wire.Text{Text: fmt.Sprintf("%s/%d", o, seq+1)}},
			}
			if rapid.IntRange(0, 9).Draw(t, "hidden") == 0 {
				rec.Content, rec.ClientId = nil, number(1000*len(w.logs)+100+seq).String() // its id is its own
			}
			w.logs[o] = append(w.logs[o], rec)
		}
	}
	return w
}

// pull answers as region r does: in any order of origins, with a limit, repeats of lower places as repeats, now and then
// a hidden record left out.
func (w *world) pull(t *rapid.T, r im.Region, from im.Cursor) *wire.PullResponse {
	held := w.held[r]
	lowest := map[string]im.Place{} // of what the region holds
	for o, log := range w.logs {
		for _, rec := range log[:min(int(held[o]), len(log))] {
			if p, ok := lowest[rec.ClientId]; !ok || wire.RecordPlace(rec).Before(p) {
				lowest[rec.ClientId] = wire.RecordPlace(rec)
			}
		}
	}
	limit := rapid.IntRange(1, 10).Draw(t, "limit")
	page := &wire.PullResponse{}
	cursor := from.Merge(nil)
	if cursor == nil {
		cursor = im.Cursor{}
	}
	for _, o := range rapid.Permutation([]im.Origin{"ap", "eu", "us"}).Draw(t, "origins") {
		for seq := from[o] + 1; seq <= held[o] && limit > 0; seq++ {
			limit--
			cursor[o] = seq
			rec := w.logs[o][seq-1]
			switch {
			case rec.Content == nil && rapid.Bool().Draw(t, "left out"):
			case lowest[rec.ClientId] != wire.RecordPlace(rec):
				page.Repeats = append(page.Repeats, &wire.Repeat{
					Sender: rec.Sender, ClientId: rec.ClientId, Stamp: rec.Stamp, Origin: rec.Origin, Seq: rec.Seq,
				})
			default:
				page.Records = append(page.Records, rec)
			}
		}
	}
	page.Cursor, page.More = cursor.String(), limit == 0
	return page
}

// shown is what everybody must see in the end: one message per id, what its lowest place says, in place order.
func (w *world) shown() []Message {
	lowest := map[im.UUID]Message{}
	for _, log := range w.logs {
		for _, rec := range log {
			m, shown, err := messageOf(rec, im.Conversation(rec.Conversation))
			if err != nil {
				panic(err)
			}
			if known, ok := lowest[m.ClientID]; shown && (!ok || m.Place.Before(known.Place)) {
				lowest[m.ClientID] = m
			}
		}
	}
	var all []Message
	for _, m := range lowest {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Message) int { return a.Place.Compare(b.Place) })
	return all
}

// Any order, duplication and loss of pushes, with pages of any regions, converges to the one timeline, with each message
// inserted once, and the changes alone rebuild the list.
func TestConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		var all []*wire.Record
		full := im.Cursor{}
		for o, log := range w.logs {
			all = append(all, log...)
			if len(log) > 0 {
				full[o] = uint64(len(log))
			}
		}
		slices.SortFunc(all, func(a, b *wire.Record) int {
			return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Seq, b.Seq))
		})
		tl := New(conversation, Limits{Ahead: rapid.IntRange(1, 6).Draw(t, "ahead")})
		var list []Message
		inserted := map[im.UUID]int{}
		cursor := im.Cursor{}
		step := func(changes []Change, err error) {
			if err != nil {
				t.Fatal(err)
			}
			list = apply(list, changes)
			for _, c := range changes {
				if c.Kind == Inserted {
					inserted[c.Message.ClientID]++
				}
			}
			if !reflect.DeepEqual(list, tl.Messages()) && len(list)+tl.Len() > 0 {
				t.Fatalf("changes rebuild %v, the list is %v", list, tl.Messages())
			}
			if !tl.Cursor().CoversAll(cursor) {
				t.Fatalf("the cursor went back from %v to %v", cursor, tl.Cursor())
			}
			cursor = tl.Cursor()
			if tl.aheads > tl.limits.Ahead {
				t.Fatalf("%d records are ahead, the bound is %d", tl.aheads, tl.limits.Ahead)
			}
		}
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			r := rapid.SampledFrom(regions).Draw(t, "region")
			o := im.Origin(rapid.SampledFrom(regions).Draw(t, "origin"))
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0: // a push, of anything, from anywhere
				if len(all) > 0 {
					step(tl.Add(rapid.SampledFrom(all).Draw(t, "push")))
				}
			case 1: // a region hears of more
				if w.held[r] == nil {
					w.held[r] = im.Cursor{}
				}
				w.held[r][o] = min(w.held[r][o]+uint64(rapid.IntRange(1, 5).Draw(t, "more")), uint64(len(w.logs[o])))
			case 2:
				step(tl.AddPage(w.pull(t, r, tl.Cursor())))
			}
		}
		// In the end all regions hold all, a list tells the head, and pulling until nothing is missing must end.
		tl.Want(full)
		for i := 0; !tl.Complete(); i++ {
			if i > 200 {
				t.Fatalf("still missing after 200 pulls: %v", tl.Missing())
			}
			r := rapid.SampledFrom(regions).Draw(t, "region")
			w.held[r] = full
			step(tl.AddPage(w.pull(t, r, tl.Cursor())))
		}
		if want := w.shown(); !reflect.DeepEqual(list, want) && len(list)+len(want) > 0 {
			t.Fatalf("converged to\n%v\nwant\n%v", list, want)
		}
		for id, n := range inserted {
			if n != 1 {
				t.Fatalf("%v was inserted %d times", id, n)
			}
		}
	})
}

// Whatever bytes come, nothing panics, the list stays sorted without two of one id, and every bound holds.
func FuzzTimeline(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 10, 1, 1, 1, 20, 2, 200, 7, 3, 9, 9, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		limits := Limits{Keep: 8, Ahead: 4, IDs: 16}
		tl := New(conversation, limits)
		var list []Message
		origins := []string{"eu", "us", "ap", "EU"}
		for ; len(b) >= 4; b = b[4:] {
			rec := &wire.Record{
				Conversation: string(conversation), Kind: "message", Version: uint32(b[0] >> 7), Sender: "ann",
				ClientId: number(int(b[3]) % 24).String(), Stamp: uint64(b[2]), Origin: origins[b[0]&3], Seq: uint64(b[1]),
			}
			if b[0]&4 == 0 {
				rec.Content = &wire.RecordText{Text: &wire.Text{Text: "x"}}
			}
			var changes []Change
			switch b[0] >> 3 & 3 {
			case 0, 1:
				changes, _ = tl.Add(rec)
			case 2:
				changes, _ = tl.AddPage(&wire.PullResponse{
					Records: []*wire.Record{rec}, Cursor: im.Cursor{im.Origin(origins[b[0]&3]): uint64(b[1])}.String(),
				})
			case 3:
				changes, _ = tl.AddPage(&wire.PullResponse{Repeats: []*wire.Repeat{{
					Sender: rec.Sender, ClientId: rec.ClientId, Stamp: rec.Stamp, Origin: rec.Origin, Seq: rec.Seq,
				}}})
			}
			list = apply(list, changes)
		}
		if !reflect.DeepEqual(list, tl.Messages()) && len(list)+tl.Len() > 0 {
			t.Fatalf("changes rebuild %v, the list is %v", list, tl.Messages())
		}
		ids := map[im.UUID]bool{}
		for i, m := range list {
			if i > 0 && !list[i-1].Place.Before(m.Place) {
				t.Fatalf("%v is not before %v", list[i-1].Place, m.Place)
			}
			if ids[m.ClientID] {
				t.Fatalf("%v shows twice", m.ClientID)
			}
			ids[m.ClientID] = true
		}
		if tl.aheads > limits.Ahead+1 || len(tl.ids) > tl.limits.IDs || len(list) > limits.Keep+limits.Keep/8 {
			t.Fatalf("%d ahead, %d ids, %d messages: over the limits %+v", tl.aheads, len(tl.ids), len(list), tl.limits)
		}
	})
}
