// Package redistest holds a Redis, whatever its kind, to what internal/redis needs of it: miniredis in unit tests, a real
// redis-server or Redis Cluster where there is one.
package redistest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/redis"
)

// Model is the pure table that rows in Redis must equal.
type Model interface {
	Apply(p im.Partition, records []im.RouteRecord)
	Jump(p im.Partition)
	Rows(uid im.UID) []im.Route // sorted by device, then region
}

// Run runs the suite against a Redis. Routes are given client; admin may do everything, and sees what they did. Each part uses
// a key prefix of its own.
func Run(t *testing.T, client, admin goredis.UniversalClient, model func(t *testing.T) Model) {
	parts := []struct {
		name string
		run  func(t *testing.T, s *redis.Routes)
	}{
		{"moves positions by compare and set", positions},
		{"keeps big numbers exact", bigNumbers},
		{"lets users expire", func(t *testing.T, s *redis.Routes) { expire(t, s, admin) }},
		{"keeps a partition in one slot", func(t *testing.T, s *redis.Routes) { oneSlot(t, s, admin) }},
		{"loads its scripts again", func(t *testing.T, s *redis.Routes) { forgotten(t, s, admin) }},
		{"forgets fences", func(t *testing.T, s *redis.Routes) { fences(t, s, admin) }},
		{"takes a claim that an older fence let in", lowerEpoch},
		{"knows what builds before wrote of fences", func(t *testing.T, s *redis.Routes) { olderFences(t, s, admin) }},
		{"is cleared", func(t *testing.T, s *redis.Routes) { cleared(t, s, admin) }},
		{"equals the table", func(t *testing.T, s *redis.Routes) { equals(t, s, model) }},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			part.run(t, redis.NewRoutes(client, prefix(t)))
		})
	}
}

func prefix(t *testing.T) string { return fmt.Sprintf("test-%x:", []byte(t.Name())) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func claim(uid im.UID, login uint64, offset int64) im.RouteRecord {
	return im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
		UID: uid, Device: "a b", Platform: "i o s", Region: "eu", Gateway: im.Gateway{ID: "g 1", Epoch: 1}, Conn: 7,
		Login: login, Offset: offset, Claimed: im.StampAt(noon),
	}}
}

func apply(t *testing.T, s *redis.Routes, b im.RouteBatch) bool {
	t.Helper()
	ok, err := s.Apply(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func lookup(t *testing.T, s *redis.Routes, number int, uid im.UID) []im.Route {
	t.Helper()
	rows, err := s.Lookup(t.Context(), number, uid)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func positions(t *testing.T, s *redis.Routes) {
	p := im.Partition{Topic: "route.eu", Number: 3}
	first := im.RoutePosition{Next: 1, Local: 1}
	if !apply(t, s, im.RouteBatch{Partition: p, To: first, Records: []im.RouteRecord{claim("ann", 1, 0)}}) {
		t.Fatal("the first batch was refused")
	}
	stale := im.RoutePosition{Next: 2, Local: 2}
	if apply(t, s, im.RouteBatch{Partition: p, To: stale, Records: []im.RouteRecord{claim("ann", 9, 1)}}) {
		t.Fatal("a batch that expects no position was taken")
	}
	wrong := first
	wrong.Generation = 1
	if apply(t, s, im.RouteBatch{Partition: p, From: &wrong, To: stale, Records: []im.RouteRecord{claim("ann", 9, 1)}}) {
		t.Fatal("a batch from another position was taken")
	}
	if rows := lookup(t, s, 3, "ann"); len(rows) != 1 || rows[0] != claim("ann", 1, 0).Route {
		t.Fatalf("rows after refused batches: %+v", rows)
	}
	second := im.RoutePosition{Next: 2, Local: 9, Generation: 4, Floor: 0}
	if !apply(t, s, im.RouteBatch{Partition: p, From: &first, To: second}) {
		t.Fatal("an empty batch from the stored position was refused")
	}
	other := im.Partition{Topic: "route.us.2", Number: 3}
	if !apply(t, s, im.RouteBatch{Partition: other, To: first}) {
		t.Fatal("another origin of the partition was refused")
	}
	got, err := s.Positions(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["eu"] != second || got["us.2"] != first {
		t.Fatalf("positions: %+v", got)
	}
	if got, err := s.Positions(t.Context(), 4); err != nil || len(got) != 0 {
		t.Fatalf("positions of an untouched partition: %+v, %v", got, err)
	}
}

// bigNumbers tells numbers apart that are one number to a script's floating point.
func bigNumbers(t *testing.T, s *redis.Routes) {
	p := im.Partition{Topic: "route.eu"}
	low, high := claim("ann", 1<<63+1, 1<<60), claim("ann", 1<<63+2, 1<<60+1)
	to := im.RoutePosition{Next: 1<<60 + 2, Local: 1<<60 + 2}
	apply(t, s, im.RouteBatch{Partition: p, To: to, Records: []im.RouteRecord{high, low}})
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 || rows[0] != high.Route {
		t.Fatalf("rows: %+v, want the higher login", rows)
	}
	release := high
	release.Kind, release.Route.Login = im.KindRelease, low.Route.Login
	next := im.RoutePosition{Next: to.Next + 1, Local: to.Local + 1}
	apply(t, s, im.RouteBatch{Partition: p, From: &to, To: next, Records: []im.RouteRecord{release}})
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 {
		t.Fatalf("the release of another login took the route")
	}
	got, err := s.Positions(t.Context(), 0)
	if err != nil || got["eu"] != next {
		t.Fatalf("positions: %+v, %v", got, err)
	}
}

func expire(t *testing.T, s *redis.Routes, client goredis.UniversalClient) {
	apply(t, s, im.RouteBatch{
		Partition: im.Partition{Topic: "route.eu"}, To: im.RoutePosition{Next: 1}, Records: []im.RouteRecord{claim("ann", 1, 0)},
	})
	ttl, err := client.TTL(t.Context(), prefix(t)+"{route.0}:user:ann").Result()
	if err != nil || ttl <= 2*time.Hour || ttl > 3*time.Hour {
		t.Fatalf("a user's key lives for %v, %v; want between 2 and 3 hours", ttl, err)
	}
	// Devices that are never seen again leave when there are many, though the user goes on claiming.
	from := im.RoutePosition{Next: 1}
	var old []im.RouteRecord
	for i := range 20 {
		r := claim("ann", 1, int64(i)+1)
		r.Route.Device = im.DeviceID(fmt.Sprint("old", i))
		old = append(old, r)
	}
	fresh := claim("ann", 2, 21)
	fresh.Route.Claimed = im.StampAt(noon.Add(4 * time.Hour))
	mid, to := im.RoutePosition{Next: 21}, im.RoutePosition{Next: 22}
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, From: &from, To: mid, Records: old})
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, From: &mid, To: to, Records: []im.RouteRecord{fresh}})
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 || rows[0] != fresh.Route {
		t.Fatalf("rows: %+v, want the fresh one only", rows)
	}
}

// oneSlot looks at the keys' hash tags.
func oneSlot(t *testing.T, s *redis.Routes, client goredis.UniversalClient) {
	records := []im.RouteRecord{claim("ann", 1, 0), claim("bob", 1, 1), {Kind: im.KindGatewayDown, Route: im.Route{Gateway: im.Gateway{ID: "g", Epoch: 3}}}}
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu", Number: 5}, To: im.RoutePosition{Next: 3}, Records: records})
	keys, err := client.Keys(t.Context(), prefix(t)+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	var want []string
	for _, k := range []string{"fences", "positions", "user:ann", "user:bob"} {
		want = append(want, prefix(t)+"{route.5}:"+k)
	}
	if !slices.Equal(keys, want) {
		t.Fatalf("keys: %q, want %q", keys, want)
	}
}

// forgotten makes the server forget its scripts, as a restart or a failover does.
func forgotten(t *testing.T, s *redis.Routes, client goredis.UniversalClient) {
	p, first := im.Partition{Topic: "route.eu"}, im.RoutePosition{Next: 1}
	apply(t, s, im.RouteBatch{Partition: p, To: first, Records: []im.RouteRecord{claim("ann", 1, 0)}})
	if err := client.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 {
		t.Fatalf("rows after the scripts were forgotten: %+v", rows)
	}
	if err := client.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if !apply(t, s, im.RouteBatch{Partition: p, From: &first, To: im.RoutePosition{Next: 2}}) {
		t.Fatal("a batch was refused after the scripts were forgotten")
	}
}

// equals applies the same random records to Redis and to the table, and compares the rows after each batch: those dead of age as
// well, which decide what is taken next. Clocks are off by hours and go back, and gateways are declared down under epochs lower
// than before.
func equals(t *testing.T, s *redis.Routes, model func(t *testing.T) Model) {
	uids, devices := []im.UID{"ann", "bob"}, []im.DeviceID{"phone", "web 1"}
	origins := []im.Origin{"eu", "us"}
	for seed := range uint64(24) {
		s, m := redis.NewRoutes(s.Client(), fmt.Sprintf("%s%d:", prefix(t), seed)), model(t)
		rng := rand.New(rand.NewPCG(seed, 2))
		next, at := map[im.Origin]int64{}, map[im.Origin]*im.RoutePosition{}
		clock := noon
		for range 60 {
			o := origins[rng.IntN(2)]
			p := im.Partition{Topic: im.RouteTopic(o)}
			to := im.RoutePosition{}
			if at[o] != nil {
				to = *at[o]
			}
			if rng.IntN(15) == 0 {
				m.Jump(p)
				next[o] += 3
				to.Floor = next[o]
			}
			var records []im.RouteRecord
			for range 1 + rng.IntN(5) {
				clock = clock.Add(time.Duration(rng.IntN(900)) * time.Second)
				off := time.Duration(rng.IntN(20)-10) * time.Second
				if rng.IntN(4) == 0 {
					off *= 1000
				}
				r := im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
					UID: uids[rng.IntN(2)], Device: devices[rng.IntN(2)], Platform: "ios", Region: o.Region(),
					Gateway: im.Gateway{ID: fmt.Sprint("g", rng.IntN(2)), Epoch: uint64(1 + rng.IntN(4))}, Conn: uint64(rng.IntN(2)),
					Login: uint64(rng.IntN(4)), Offset: next[o], Claimed: im.StampAt(clock.Add(off)), Offline: rng.IntN(4) == 0,
				}}
				switch rng.IntN(10) {
				case 0, 1:
					r.Kind = im.KindRelease
				case 2, 3:
					r.Kind = im.KindGatewayDown
				}
				next[o]++
				records = append(records, r)
			}
			to.Next, to.Local = next[o], next[o]
			m.Apply(p, records)
			if !apply(t, s, im.RouteBatch{Partition: p, From: at[o], To: to, Records: records}) {
				t.Fatalf("seed %d: the batch was refused", seed)
			}
			at[o] = &to
			for _, uid := range uids {
				if got, want := lookup(t, s, 0, uid), m.Rows(uid); !slices.Equal(got, want) {
					t.Fatalf("seed %d: rows of %s\n got %+v\nwant %+v", seed, uid, got, want)
				}
			}
		}
	}
}

// fences checks that gateways which come and go for ever leave a bounded number of fences, and that one keeps out what is
// older for as long as that could count.
func fences(t *testing.T, s *redis.Routes, client goredis.UniversalClient) {
	key := prefix(t) + "{route.0}:fences"
	if err := client.HSet(t.Context(), key, "eu before", fmt.Sprintf("%016x", 7)).Err(); err != nil { // of a build that kept no stamps
		t.Fatal(err)
	}
	var at *im.RoutePosition
	next := int64(0)
	do := func(r im.RouteRecord) {
		t.Helper()
		to := im.RoutePosition{Next: next + 1, Local: next + 1}
		if !apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, From: at, To: to, Records: []im.RouteRecord{r}}) {
			t.Fatal("the batch was refused")
		}
		at, next = &to, next+1
	}
	down := func(n int, clock time.Time) {
		do(im.RouteRecord{Kind: im.KindGatewayDown, Route: im.Route{Gateway: im.Gateway{ID: fmt.Sprint("g", n), Epoch: 5}, Claimed: im.StampAt(clock)}})
	}
	clock := noon
	for n := range 500 {
		clock = clock.Add(5 * time.Minute)
		down(n, clock)
	}
	left, err := client.HGetAll(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(left); n > 65 {
		t.Errorf("%d fences are left of 500 gateways that died over two days", n)
	}
	if _, ok := left["eu before"]; ok {
		t.Error("a fence without a stamp is kept for ever")
	}
	late := im.RouteRecord{Kind: im.KindClaim, Route: im.Route{
		UID: "ann", Device: "a", Platform: "ios", Region: "eu", Gateway: im.Gateway{ID: "g499", Epoch: 5}, Login: 1, Offset: next, Claimed: im.StampAt(clock),
	}}
	do(late)
	if rows := lookup(t, s, 0, "ann"); len(rows) > 0 {
		t.Errorf("a claim of a gateway that was declared down a moment ago counts: %+v", rows)
	}
	late.Route.Claimed, late.Route.Offset = im.StampAt(clock.Add(2*time.Hour+time.Millisecond)), next
	do(late)
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 {
		t.Errorf("%d rows of a gateway that was declared down longer ago than routes live, and claims again", len(rows))
	}
}

// lowerEpoch: epoch 5 of a gateway was declared down, by a clock that is behind, and long after it epoch 3. What the first took away
// stays away, and holds no later login up.
func lowerEpoch(t *testing.T, s *redis.Routes) {
	gone := claim("ann", 9, 0)
	gone.Route.Gateway.Epoch, gone.Route.Claimed = 5, im.StampAt(noon.Add(time.Hour))
	down := func(epoch uint64, offset int64, at time.Time) im.RouteRecord {
		return im.RouteRecord{Kind: im.KindGatewayDown, Route: im.Route{Gateway: im.Gateway{ID: "g 1", Epoch: epoch}, Offset: offset, Claimed: im.StampAt(at)}}
	}
	first := im.RoutePosition{Next: 3, Local: 3}
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, To: first, Records: []im.RouteRecord{
		gone, down(5, 1, noon), down(3, 2, noon.Add(2*time.Hour+time.Minute)),
	}})
	if rows := lookup(t, s, 0, "ann"); len(rows) > 0 {
		t.Errorf("a row that was taken away is there again: %+v", rows)
	}
	later := claim("ann", 2, 3)
	later.Route.Gateway.Epoch, later.Route.Claimed = 6, im.StampAt(noon.Add(2*time.Hour+2*time.Minute))
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, From: &first, To: im.RoutePosition{Next: 4, Local: 4}, Records: []im.RouteRecord{later}})
	if rows := lookup(t, s, 0, "ann"); len(rows) != 1 || rows[0] != later.Route {
		t.Errorf("rows: %+v, want the one that was claimed last", rows)
	}
}

// olderFences: fences without a place in the log count by their stamps, as when they were written, or always if they have none.
func olderFences(t *testing.T, s *redis.Routes, client goredis.UniversalClient) {
	key := prefix(t) + "{route.0}:fences"
	for gateway, value := range map[string]string{
		"stamped": fmt.Sprintf("%016x%016x", 7, uint64(im.StampAt(noon))), "bare": fmt.Sprintf("%016x", 7),
	} {
		if err := client.HSet(t.Context(), key, "eu "+gateway, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var records []im.RouteRecord
	for i, c := range []struct {
		gateway string
		epoch   uint64
		after   time.Duration
	}{{"stamped", 7, time.Hour}, {"stamped", 7, 3 * time.Hour}, {"stamped", 8, 0}, {"bare", 7, 3 * time.Hour}, {"bare", 8, 0}} {
		r := claim("ann", 1, int64(i))
		r.Route.Device, r.Route.Gateway = im.DeviceID(fmt.Sprint(i)), im.Gateway{ID: c.gateway, Epoch: c.epoch}
		r.Route.Claimed = im.StampAt(noon.Add(c.after))
		records = append(records, r)
	}
	apply(t, s, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, To: im.RoutePosition{Next: 5, Local: 5}, Records: records})
	var there []im.DeviceID
	for _, r := range lookup(t, s, 0, "ann") {
		there = append(there, r.Device)
	}
	if !slices.Equal(there, []im.DeviceID{"1", "2", "4"}) {
		t.Errorf("claims %q count, want 1, 2 and 4", there)
	}
}

// cleared takes away what is there, and nothing of another prefix.
func cleared(t *testing.T, s *redis.Routes, admin goredis.UniversalClient) {
	other := redis.NewRoutes(s.Client(), "test-of-"+prefix(t))
	for _, s := range []*redis.Routes{s, other} {
		for n := range 3 {
			p := im.Partition{Topic: "route.eu", Number: n}
			apply(t, s, im.RouteBatch{Partition: p, To: im.RoutePosition{Next: 1}, Records: []im.RouteRecord{claim("ann", 1, 0)}})
		}
	}
	if err := redis.Clear(t.Context(), s.Client(), prefix(t)); err != nil {
		t.Fatal(err)
	}
	if keys, err := admin.Keys(t.Context(), prefix(t)+"*").Result(); err != nil || len(keys) > 0 {
		t.Errorf("%q are left: %v", keys, err)
	}
	if rows := lookup(t, other, 0, "ann"); len(rows) != 1 {
		t.Errorf("routes of another prefix went along")
	}
}

// Down checks that a Redis that is gone is an error, in time, and not a lie.
func Down(t *testing.T, s *redis.Routes) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := s.Positions(ctx, 0); err == nil {
		t.Error("positions of a Redis that is gone")
	}
	if ok, err := s.Apply(ctx, im.RouteBatch{Partition: im.Partition{Topic: "route.eu"}, To: im.RoutePosition{Next: 1}}); err == nil || ok {
		t.Error("a batch was applied to a Redis that is gone")
	}
}
