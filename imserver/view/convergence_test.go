package view

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
)

// region is one region's view with the copies it reads.
type region struct {
	view   *View
	copies map[im.Partition][]im.Entry
}

// derive reads every partition to its end in a random interleaving, in random batches over several partitions, with
// restarts in between.
func derive(t *testing.T, logs *viewtest.Logs, own im.Origin, rng *rand.Rand, r rules) *region {
	t.Helper()
	reg := &region{view: NewView(logs.Count), copies: map[im.Partition][]im.Entry{}}
	reg.view.rules = r
	for _, p := range logs.Partitions() {
		if p.Origin() == own {
			reg.copies[p] = logs.Entries[p]
		} else {
			reg.copies[p] = logs.Copy(rng, p)
		}
	}
	partitions := logs.Partitions()
	tails := map[im.Partition]*Tail{}
	start := func() {
		for _, p := range partitions {
			tail, err := NewTail(reg.view.Position(p), logs.Count)
			if err != nil {
				t.Fatal(err)
			}
			tails[p] = tail
		}
	}
	start()
	for left := slices.Clone(partitions); len(left) > 0; {
		for range 1 + rng.IntN(8) { // a batch's worth of reading
			if len(left) == 0 {
				break
			}
			i := rng.IntN(len(left))
			p := left[i]
			for range 1 + rng.IntN(5) {
				local := readerAt(tails[p], reg.copies[p])
				if local == len(reg.copies[p]) {
					left = slices.Delete(left, i, i+1)
					break
				}
				if _, err := tails[p].Take(&reg.copies[p][local]); err != nil {
					t.Fatal(err)
				}
			}
		}
		var parts []Part
		for _, p := range partitions {
			if tails[p].Moved() && rng.IntN(4) > 0 {
				parts = append(parts, cutAndNumber(reg.view, tails[p]))
			}
		}
		if rng.IntN(10) == 0 { // a crash before the commit: what was gathered is gone
			start()
			left = slices.Clone(partitions)
			continue
		}
		if err := reg.view.Apply(parts); err != nil {
			t.Fatal(err)
		}
		if rng.IntN(10) == 0 {
			start()
			left = slices.Clone(partitions)
		}
	}
	for _, p := range partitions {
		if err := reg.view.Apply([]Part{cutAndNumber(reg.view, tails[p])}); err != nil {
			t.Fatal(err)
		}
	}
	return reg
}

func cutAndNumber(v *View, t *Tail) Part {
	part := t.Cut()
	Number(part.Records, v.Last)
	return part
}

// readerAt is where a reader that this tail drives stands. While a tail waits in a gap its position stays before it, so
// the reader's own place is found by counting on.
func readerAt(t *Tail, copied []im.Entry) int {
	if !t.gap {
		return int(t.at.Local)
	}
	for i := int(t.at.Local); i < len(copied); i++ {
		if t.follower.Next == wireOffset(&copied[i]) {
			return i
		}
	}
	return len(copied)
}

func wireOffset(e *im.Entry) int64 {
	for _, h := range e.Headers {
		if h.Key == "n" {
			var n int64
			for _, b := range h.Value {
				n = n<<8 | int64(b)
			}
			return n
		}
	}
	return e.Offset
}

// pullAll pulls page by page until nothing is left and fails if a page repeats or skips anything (I7).
func pullAll(v *View, uid im.UID, c im.Conversation, limit int) (records []string, cursor im.Cursor, err error) {
	seen := map[string]bool{}
	for range 10_000 {
		page := v.Pull(PullQuery{UID: uid, Conversation: c, Cursor: cursor, Limit: limit})
		for _, r := range slices.Concat(page.Records, page.Repeats) {
			k := fmt.Sprint(r.Place)
			if seen[k] || cursor.Covers(r.Place.Origin, r.Place.Seq) {
				return nil, nil, fmt.Errorf("%s was returned though the cursor %v covers it", k, cursor)
			}
			if !page.Cursor.Covers(r.Place.Origin, r.Place.Seq) {
				return nil, nil, fmt.Errorf("%s is not covered by its page's cursor %v", k, page.Cursor)
			}
			seen[k] = true
		}
		for _, r := range page.Records {
			records = append(records, fmt.Sprintf("%v %s %s %x", r.Place, r.Sender, r.ClientID, r.Body))
		}
		if !page.Cursor.CoversAll(cursor) {
			return nil, nil, fmt.Errorf("the cursor went back from %v to %v", cursor, page.Cursor)
		}
		cursor = page.Cursor
		if !page.More {
			slices.Sort(records)
			return records, cursor, nil
		}
	}
	return nil, nil, fmt.Errorf("pulling does not end at %v", cursor)
}

// same tells how two regions differ, "" if they do not: by their digests, or by everything that anybody can read.
func same(logs *viewtest.Logs, a, b *region, rng *rand.Rand, deep bool) string {
	if da, db := a.view.Digest(), b.view.Digest(); !maps.Equal(da, db) {
		return fmt.Sprintf("digests: %v and %v", da, db)
	}
	if !deep {
		return ""
	}
	for _, uid := range logs.Users {
		for _, c := range logs.Conversations() {
			ra, ca, err := pullAll(a.view, uid, c, 1+rng.IntN(5))
			if err != nil {
				return err.Error()
			}
			rb, cb, err := pullAll(b.view, uid, c, 100)
			if err != nil {
				return err.Error()
			}
			if !slices.Equal(ra, rb) || ca.String() != cb.String() {
				return fmt.Sprintf("%s pulls %s: %q to %v, and %q to %v", uid, c, ra, ca, rb, cb)
			}
		}
		la, lb := a.view.List(ListQuery{UID: uid, Limit: 100}), b.view.List(ListQuery{UID: uid, Limit: 100})
		if fmt.Sprintf("%+v", describe(la)) != fmt.Sprintf("%+v", describe(lb)) {
			return fmt.Sprintf("%s lists %+v and %+v", uid, describe(la), describe(lb))
		}
	}
	return ""
}

func describe(p ListPage) []string {
	var rows []string
	for _, r := range p.Rows {
		last := ""
		if r.Last != nil {
			last = fmt.Sprint(r.Last.Place, r.Last.ID)
		}
		rows = append(rows, fmt.Sprintf("%s %q member=%v head=%v last=%s unread=%d delivered=%v read=%v",
			r.Conversation, r.Title, r.Member, r.Head, last, r.Unread, r.Delivered, r.Read))
	}
	return append(rows, "cursor="+p.Cursor.String())
}

// Regions that read the same logs in any interleaving, batched, repeated and interrupted in any way, are equal (I2, I3,
// I6, I7, I8, I9), and equal to what a direct reading of the definitions says.
func TestConvergence(t *testing.T) {
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		if why := converge(t, seed, trueRules()); why != "" {
			t.Fatalf("seed %d: %s", seed, why)
		}
	}
}

func converge(t *testing.T, seed uint64, last rules) string {
	logs := viewtest.Make(seed, 40)
	rng := rand.New(rand.NewPCG(seed, 2))
	eu := derive(t, logs, "eu", rng, trueRules())
	us := derive(t, logs, "us", rng, trueRules())
	ap := derive(t, logs, "ap", rng, last)
	deep := seed%25 == 0 // reading everything takes ten times as long as digests
	if why := same(logs, eu, us, rng, deep); why != "" {
		return "eu and us: " + why
	}
	if why := same(logs, eu, ap, rng, deep); why != "" {
		return "eu and ap: " + why
	}
	if !deep {
		return ""
	}
	return checkDefinitions(logs, eu.view)
}

// A merge that is wrong in one region is found within few seeds: the test can fail.
func TestConvergenceFindsWrongMerges(t *testing.T) {
	latest, tooMuch := trueRules(), trueRules()
	latest.lower = func(_, new im.Place) im.Place { return new }
	tooMuch.cursor = func(_, new im.Cursor) im.Cursor { return new }
	for name, wrong := range map[string]rules{"the last record of an id wins": latest, "the last cursor wins": tooMuch} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(300) {
				if converge(t, seed, wrong) != "" {
					return
				}
			}
			t.Fatal("300 seeds did not find it")
		})
	}
}
