package postgres

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
	"github.com/antipode-im/antipode/internal/embedded"
)

// One server for all tests: each gets a database of its own.
func TestTimelines(t *testing.T) {
	server := startServer(t)
	for name, test := range map[string]func(*testing.T, func(*testing.T) *Timelines){
		"behaves like the view":       testBehavesLikeView,
		"fences the slower owner":     testFence,
		"commits all parts or none":   testAllOrNone,
		"retries conflicts":           testConflicts,
		"keeps how far was sent":      testSent,
		"tells a newer schema":        testNewerSchema,
		"knows heads and groups":      testKnown,
		"survives a second owner":     testTwoOwners,
		"migrates twice, and at once": testMigrate,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T) *Timelines { return openDatabase(t, server) })
		})
	}
}

func startServer(t testing.TB) *embedded.Postgres {
	t.Helper()
	server, err := embedded.StartPostgres(t.Context(), embedded.PostgresConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(context.Background()) })
	return server
}

func openDatabase(t testing.TB, server *embedded.Postgres) *Timelines {
	t.Helper()
	name := "t" + strings.ReplaceAll(im.NewUUID(time.Now()).String(), "-", "")
	if err := server.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(t.Context(), server.URL(name)); err != nil {
		t.Fatal(err)
	}
	timelines, err := Open(t.Context(), Config{URL: server.URL(name)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(timelines.Close)
	return timelines
}

// wipe empties every table, which is faster than a new database.
func wipe(t testing.TB, timelines *Timelines) {
	t.Helper()
	if _, err := timelines.pool.Exec(t.Context(), `TRUNCATE positions, sent, heads, ids, messages, inbox, members, titles, cursors`); err != nil {
		t.Fatal(err)
	}
}

// Made-up logs, read in random order and batches, are applied to PostgreSQL and to the view that specifies it. After every
// few batches both are asked the same questions.
func testBehavesLikeView(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
	seeds := uint64(8)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		wipe(t, timelines)
		logs := viewtest.Make(seed, 120)
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
			if err := timelines.Apply(t.Context(), parts); err != nil {
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

func compare(t *testing.T, when string, timelines *Timelines, model *view.View, logs *viewtest.Logs, rng *rand.Rand) {
	t.Helper()
	ctx := t.Context()
	differ := func(what string, got, want any, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %s: %v", when, what, err)
		}
		if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
			t.Fatalf("%s: %s differs\nPostgreSQL: %s\nview:       %s", when, what, g, w)
		}
	}
	positions, err := timelines.Positions(ctx)
	differ("positions", positions, model.Positions(), err)
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

func testFence(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
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

func testAllOrNone(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
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

// Two owners that overlap, each with its own idea of the position, leave what one alone would have.
func testTwoOwners(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
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
	var rows, last int
	if err := timelines.pool.QueryRow(t.Context(), `SELECT count(*), max(seq) FROM messages`).Scan(&rows, &last); err != nil || rows != n || last != n {
		t.Fatalf("%d rows to seq %d, %v", rows, last, err)
	}
}

func testConflicts(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
	attempts := 0
	err := timelines.retry(t.Context(), "test", func() error {
		attempts++
		if attempts < 3 {
			_, err := timelines.pool.Exec(t.Context(), `DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$`)
			return err
		}
		return nil
	})
	if err != nil || attempts != 3 {
		t.Fatalf("%d attempts, %v", attempts, err)
	}
	attempts = 0
	err = timelines.retry(t.Context(), "test", func() error {
		attempts++
		_, err := timelines.pool.Exec(t.Context(), `SELECT 1/0`)
		return err
	})
	if err == nil || attempts != 1 {
		t.Fatalf("%d attempts, %v: what is no conflict must not be tried again", attempts, err)
	}
}

func testSent(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
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

func testKnown(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
	logs := viewtest.Make(7, 300)
	model := view.NewView(logs.Count)
	var keys []view.HeadKey
	for _, p := range logs.Partitions() {
		tail, err := view.NewTail(view.Position{Position: im.Position{Partition: p}}, logs.Count)
		if err != nil {
			t.Fatal(err)
		}
		for i := range logs.Entries[p] {
			tail.Take(&logs.Entries[p][i])
		}
		part := tail.Cut()
		view.Number(part.Records, model.Last)
		for _, r := range part.Records {
			keys = append(keys, view.HeadKey{Conversation: r.Conversation, Origin: r.Place.Origin})
		}
		if err := errors.Join(model.Apply([]view.Part{part}), timelines.Apply(t.Context(), []view.Part{part})); err != nil {
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

func testNewerSchema(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
	if _, err := timelines.pool.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), timelines.cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("got %v, want a refusal", err)
	}
}

func testMigrate(t *testing.T, open func(*testing.T) *Timelines) {
	timelines := open(t)
	if _, err := timelines.pool.Exec(t.Context(), `DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), timelines.cfg, nil); err == nil {
		t.Fatal("an empty database was taken for a migrated one")
	}
	errs := make(chan error, 3)
	for range 3 {
		go func() { errs <- Migrate(t.Context(), timelines.cfg.URL) }()
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(t.Context(), timelines.cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
