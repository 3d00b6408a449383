// Package postgrestest holds a PostgreSQL, whatever runs it, to what internal/postgres needs of it: the one of this machine in
// unit tests, real servers as a region runs them elsewhere. What only the adapter's own statements show is tested beside them.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/imserver/view/viewtest"
	"github.com/antipode-im/antipode/internal/postgres"
)

// maker makes a store of empty databases for logs of so many partitions a topic.
type maker func(t *testing.T, partitions int) (postgres.Config, *postgres.Timelines)

// Run runs the suite. databases makes so many empty databases and returns their URLs. What a store does must not depend on
// how many it has, 1 or 2: what could is tested with each of counts.
func Run(t *testing.T, databases func(t *testing.T, count int) []string, counts ...int) {
	type tests map[string]func(*testing.T, maker)
	run := func(count int, all tests) {
		for name, test := range all {
			t.Run(fmt.Sprintf("%d databases/%s", count, name), func(t *testing.T) {
				test(t, func(t *testing.T, partitions int) (postgres.Config, *postgres.Timelines) {
					cfg := migrated(t, databases, count, partitions)
					timelines, err := postgres.Open(t.Context(), cfg, nil)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(timelines.Close)
					return cfg, timelines
				})
			})
		}
	}
	for _, count := range counts {
		run(count, tests{
			"behaves like the view":  func(t *testing.T, create maker) { behavesLikeView(t, count, create) },
			"knows heads and groups": known,
			"keeps how far was sent": plain(sent),
			"derives what was raw":   func(t *testing.T, create maker) { derives(t, count, create) },
			"seeds another region": func(t *testing.T, create maker) {
				seeds(t, create, func(t *testing.T, partitions int) postgres.Config {
					return migrated(t, databases, 3-count, partitions) // a region of one from a region of two, and the other way round
				})
			},
		})
	}
	run(1, tests{
		"fences the slower owner":    plain(fence),
		"commits all parts or none":  plain(allOrNone),
		"hears seqs that come twice": plain(seqsTwice),
		"survives a second owner":    plain(twoOwners),
		"refuses to be seeded":       refusesToSeed,
	})
}

// migrated makes databases ready.
func migrated(t *testing.T, databases func(*testing.T, int) []string, count, partitions int) postgres.Config {
	t.Helper()
	cfg := postgres.Config{URLs: databases(t, count), Partitions: partitions}
	if err := postgres.Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func plain(test func(*testing.T, *postgres.Timelines)) func(*testing.T, maker) {
	return func(t *testing.T, create maker) {
		_, timelines := create(t, 2)
		test(t, timelines)
	}
}

// apply commits parts as an imserver does: those of each database together.
func apply(ctx context.Context, timelines *postgres.Timelines, parts []view.Part) error {
	for n := range timelines.Databases() {
		var of []view.Part
		for _, p := range parts {
			if p.Partition.Number%timelines.Databases() == n {
				of = append(of, p)
			}
		}
		if err := timelines.Apply(ctx, of); err != nil {
			return err
		}
	}
	return nil
}

// Made-up logs, read in random order and batches, are applied to PostgreSQL and to the view that specifies it. After every
// few batches both are asked the same questions.
func behavesLikeView(t *testing.T, databases int, create maker) {
	type store struct {
		cfg postgres.Config
		*postgres.Timelines
	}
	stores := map[int]store{} // by partitions
	seeds := uint64(10)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		logs := viewtest.Make(seed, 120)
		if logs.Count < databases { // some would stay empty
			continue
		}
		if stores[logs.Count].Timelines == nil {
			cfg, timelines := create(t, logs.Count)
			stores[logs.Count] = store{cfg, timelines}
		} else if err := postgres.Clear(t.Context(), stores[logs.Count].cfg); err != nil {
			t.Fatal(err)
		}
		timelines := stores[logs.Count].Timelines
		rng := rand.New(rand.NewPCG(seed, 3))
		model := view.NewView(logs.Count)
		tails, left := map[im.Partition]*view.Tail{}, map[im.Partition][]im.Entry{}
		for _, p := range logs.Partitions() {
			tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
			if err != nil {
				t.Fatal(err)
			}
			tails[p], left[p] = tail, logs.Entries[p]
			if p.Origin() != "eu" {
				left[p] = logs.Copy(rng, p)
			}
		}
		for round := 0; len(left) > 0; round++ {
			for _, p := range slices.SortedFunc(maps.Keys(left), im.Partition.Compare) {
				n := min(rng.IntN(6), len(left[p]))
				for i := range n {
					if _, err := tails[p].Take(&left[p][i]); err != nil {
						t.Fatal(err)
					}
				}
				if left[p] = left[p][n:]; len(left[p]) == 0 {
					delete(left, p)
				}
			}
			var parts []view.Part
			for _, p := range logs.Partitions() {
				if tails[p].Moved() {
					part := tails[p].Cut()
					view.Number(part.Records, model.Last)
					parts = append(parts, part)
				}
			}
			if err := apply(t.Context(), timelines, parts); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if err := model.Apply(parts); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if round%6 == 0 || len(left) == 0 {
				compare(t, fmt.Sprintf("seed %d, round %d", seed, round), timelines, model, logs, rng)
			}
		}
	}
}

func compare(t *testing.T, when string, timelines *postgres.Timelines, model *view.View, logs *viewtest.Logs, rng *rand.Rand) {
	t.Helper()
	positions, err := timelines.Positions(t.Context())
	differs(t, when, "positions", positions, model.Positions(), err)
	compareRows(t, when, timelines, model, logs, rng)
}

// differs fails the test unless what PostgreSQL says is what the view says.
func differs(t *testing.T, when, what string, got, want any, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %s: %v", when, what, err)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Fatalf("%s: %s differs\nPostgreSQL: %s\nview:       %s", when, what, g, w)
	}
}

// compareRows compares all but positions.
func compareRows(t *testing.T, when string, timelines *postgres.Timelines, model *view.View, logs *viewtest.Logs, rng *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	differ := func(what string, got, want any, err error) {
		t.Helper()
		differs(t, when, what, got, want, err)
	}
	digest, err := timelines.Digest(ctx)
	differ("digest", digest, model.Digest(), err)
	for _, uid := range logs.Users {
		cursor := im.ListCursor{}
		for {
			q := view.ListQuery{UID: uid, Cursor: cursor, Limit: 1 + rng.IntN(5)}
			page, err := timelines.List(ctx, q)
			want := model.List(q)
			differ("list of "+string(uid), flat(page), flat(want), err)
			cursor = page.Cursor
			if !page.More {
				break
			}
		}
	}
	for _, c := range logs.Conversations() {
		uid := logs.Users[rng.IntN(len(logs.Users))]
		q := view.PullQuery{UID: uid, Conversation: c, Limit: 1 + rng.IntN(6), Bytes: 40 * rng.IntN(2)}
		if rng.IntN(3) == 0 {
			q.Upto = im.Cursor{"eu": uint64(rng.IntN(5)), "us": uint64(rng.IntN(5))}
		}
		for {
			page, err := timelines.Pull(ctx, q)
			want := model.Pull(q)
			differ(fmt.Sprintf("pull of %s by %s from %v", c, uid, q.Cursor), page, want, err)
			q.Cursor = page.Cursor
			if !page.More {
				break
			}
		}
		receipts, err := timelines.Receipts(ctx, c, logs.Users)
		differ("receipts of "+string(c), receipts, model.Receipts(c, logs.Users), err)
	}
}

func flat(p view.ListPage) string {
	var b strings.Builder
	for _, r := range p.Rows {
		last := "none"
		if r.Last != nil {
			last = fmt.Sprintf("%+v", *r.Last)
		}
		fmt.Fprintf(&b, "%s %q member=%v head=%v last=%s unread=%d delivered=%v read=%v\n",
			r.Conversation, r.Title, r.Member, r.Head, last, r.Unread, r.Delivered, r.Read)
	}
	fmt.Fprintf(&b, "%v more=%v", p.Cursor, p.More)
	return b.String()
}

// part makes a part of n messages from a position on.
func part(p im.Partition, from int64, seq uint64, n int, c im.Conversation) view.Part {
	part := view.Part{
		Partition: p, From: from,
		To: view.Position{Position: im.Position{Partition: p, Next: from + int64(n), Local: from + int64(n)}},
	}
	for i := range n {
		part.Records = append(part.Records, view.Record{
			Record: im.Record{
				ID:   im.ID{Conversation: c, Sender: "ann", ClientID: im.NewUUID(time.Now())},
				Kind: im.KindMessage, Version: 1, Body: []byte{0x0a, 0x01, 'x'},
				Place: im.Place{Stamp: im.StampAt(time.Now()), Origin: p.Origin(), Seq: seq + uint64(i)},
			},
			Offset: from + int64(i), Shown: true,
		})
	}
	return part
}

var (
	eu0 = im.Partition{Topic: "msg.eu.direct"}
	us0 = im.Partition{Topic: "msg.us.direct"}
)

func fence(t *testing.T, timelines *postgres.Timelines) {
	ctx := t.Context()
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 3, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	// An owner that was paused holds a batch from the same position.
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 3, "d:ann:bob")}); !errors.Is(err, view.ErrFenced) {
		t.Fatalf("the slower owner got %v, want it fenced", err)
	}
	// And one that believes to be ahead.
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 7, 4, 1, "d:ann:bob")}); !errors.Is(err, view.ErrFenced) {
		t.Fatalf("got %v, want it fenced", err)
	}
	positions, err := timelines.Positions(ctx)
	if err != nil || len(positions) != 1 || positions[0].Next != 3 {
		t.Fatalf("positions %v, %v", positions, err)
	}
}

func allOrNone(t *testing.T, timelines *postgres.Timelines) {
	ctx := t.Context()
	if err := timelines.Apply(ctx, []view.Part{part(us0, 0, 1, 1, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	before, _ := timelines.Digest(ctx)
	err := timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 3, "d:ann:bob"), part(us0, 0, 1, 1, "d:ann:bob")})
	if !errors.Is(err, view.ErrFenced) {
		t.Fatalf("got %v, want it fenced", err)
	}
	// A seq that is there already is a bug of the caller: it is heard, and nothing of the batch stays.
	err = timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 3, "d:ann:bob"), part(us0, 1, 1, 1, "d:ann:bob")})
	if err == nil || errors.Is(err, view.ErrFenced) {
		t.Fatalf("got %v, want a conflict", err)
	}
	if after, _ := timelines.Digest(ctx); !maps.Equal(before, after) {
		t.Fatal("a batch was half applied")
	}
}

// A stream has every seq once, whatever months its records are of.
func seqsTwice(t *testing.T, timelines *postgres.Timelines) {
	ctx := t.Context()
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 0, 1, 3, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
	before, _ := timelines.Digest(ctx)
	for _, seq := range []uint64{1, 2, 3, 5} {
		err := timelines.Apply(ctx, []view.Part{part(eu0, 3, seq, 2, "d:ann:bob")})
		if err == nil || errors.Is(err, view.ErrFenced) {
			t.Fatalf("seq %d after 3: %v", seq, err)
		}
		if e, ok := errors.AsType[*postgres.Error](err); !ok || !strings.Contains(e.Error(), "heads") {
			t.Errorf("seq %d after 3: %v", seq, err)
		}
	}
	if after, _ := timelines.Digest(ctx); !maps.Equal(before, after) {
		t.Fatal("a refused batch left something")
	}
	if err := timelines.Apply(ctx, []view.Part{part(eu0, 3, 4, 2, "d:ann:bob")}); err != nil {
		t.Fatal(err)
	}
}

// Two owners that overlap, each with its own idea of the position, leave what one alone would have.
func twoOwners(t *testing.T, timelines *postgres.Timelines) {
	const n = 200
	var all []view.Record
	for i, r := range part(eu0, 0, 1, n, "d:ann:bob").Records {
		r.Offset = int64(i)
		all = append(all, r)
	}
	owner := func(step int64) error {
		for {
			positions, err := timelines.Positions(t.Context())
			if err != nil {
				return err
			}
			next := int64(0)
			if len(positions) > 0 {
				next = positions[0].Next
			}
			if next == n {
				return nil
			}
			end := min(n, next+step)
			err = timelines.Apply(t.Context(), []view.Part{{
				Partition: eu0, From: next, Records: all[next:end],
				To: view.Position{Position: im.Position{Partition: eu0, Next: end, Local: end}},
			}})
			if err != nil && !errors.Is(err, view.ErrFenced) {
				return err
			}
		}
	}
	errs := make(chan error, 2)
	go func() { errs <- owner(3) }()
	go func() { errs <- owner(5) }()
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	key := view.HeadKey{Conversation: "d:ann:bob", Origin: "eu"}
	facts, err := timelines.Known(t.Context(), view.Ask{Heads: []view.HeadKey{key}, Partitions: []im.Partition{eu0}})
	if err != nil || facts.Heads[key] != n || facts.Next[eu0] != n {
		t.Fatalf("the last seq is %d, the position %d, %v", facts.Heads[key], facts.Next[eu0], err)
	}
	page, err := timelines.Pull(t.Context(), view.PullQuery{UID: "ann", Conversation: "d:ann:bob", Limit: 2 * n})
	if err != nil || len(page.Records) != n {
		t.Fatalf("%d rows, want %d: %v", len(page.Records), n, err)
	}
}

func sent(t *testing.T, timelines *postgres.Timelines) {
	for _, next := range []int64{5, 9, 7} { // the slower of two owners changes nothing
		if err := timelines.SaveSent(t.Context(), []im.Position{{Partition: eu0, Next: next, Local: 2 * next}}); err != nil {
			t.Fatal(err)
		}
	}
	sent, err := timelines.Sent(t.Context())
	if want := []im.Position{{Partition: eu0, Next: 9, Local: 18}}; err != nil || !reflect.DeepEqual(sent, want) {
		t.Fatalf("%v, %v", sent, err)
	}
}

func known(t *testing.T, create maker) {
	logs := viewtest.Make(7, 300)
	_, timelines := create(t, logs.Count)
	model := view.NewView(logs.Count)
	var keys []view.HeadKey
	for _, p := range logs.Partitions() {
		tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
		if err != nil {
			t.Fatal(err)
		}
		for i := range logs.Entries[p] {
			if _, err := tail.Take(&logs.Entries[p][i]); err != nil {
				t.Fatal(err)
			}
		}
		part := tail.Cut()
		view.Number(part.Records, model.Last)
		for _, r := range part.Records {
			keys = append(keys, view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin})
		}
		if err := errors.Join(model.Apply([]view.Part{part}), apply(t.Context(), timelines, []view.Part{part})); err != nil {
			t.Fatal(err)
		}
	}
	keys = append(keys, view.HeadKey{Conversation: "d:no:one", Origin: "eu"})
	facts, err := timelines.Known(t.Context(), view.Ask{
		Heads: keys, Groups: append(logs.Groups, "g:eu:019b76da-a800-7000-8000-000000000000"), Partitions: append(logs.Partitions(), im.Partition{Topic: "msg.xx.direct"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	heads, groups := facts.Heads, facts.Groups
	for _, at := range model.Positions() {
		if facts.Next[at.Partition] != at.Next {
			t.Errorf("%v: next %d, want %d", at.Partition, facts.Next[at.Partition], at.Next)
		}
	}
	for _, k := range keys {
		if heads[k] != model.Last(k) {
			t.Errorf("%v: last seq %d, want %d", k, heads[k], model.Last(k))
		}
	}
	for _, g := range logs.Groups {
		if groups[g].Title() != model.Group(g).Title() || !slices.Equal(groups[g].Members(), model.Group(g).Members()) {
			t.Errorf("%s: %q %v, want %q %v", g, groups[g].Title(), groups[g].Members(), model.Group(g).Title(), model.Group(g).Members())
		}
	}
	if len(groups) != len(logs.Groups) {
		t.Errorf("%d groups known, want %d", len(groups), len(logs.Groups))
	}
	asked := map[im.ID]bool{}
	for _, k := range keys {
		for seq := uint64(1); seq <= model.Last(k); seq++ {
			id := model.Record(k, seq).ID
			if asked[id] {
				continue
			}
			asked[id] = true
			want, known := model.Find(id)
			if found, ok, err := timelines.Find(t.Context(), id); err != nil || ok != known || found != want {
				t.Errorf("%v: found %+v, %v, %v; want %+v, %v", id, found, ok, err, want, known)
			}
			id.Sender += "x"
			if found, ok, err := timelines.Find(t.Context(), id); err != nil || ok {
				t.Errorf("%v: found %+v, %v", id, found, err)
			}
		}
	}
}
