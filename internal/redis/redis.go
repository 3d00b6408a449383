// Package redis keeps a region's routes in Redis or Redis Cluster.
//
// Everything of one partition number, of every origin, lives in one slot ({route.<n>} is the hash tag), so that the rows
// and the position they came from change in one script. The script compares the stored position first: a router that
// lost the partition cannot write. Dead rows are not searched for: a gateway_down leaves a fence with its place in the log, by
// which whoever reads tells the rows that it took away, a jump raises the origin's floor, and keys expire. A fence counts for as
// long as what it voids could, and goes some time after that.
package redis

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	redis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
)

var (
	//go:embed apply.lua
	applySource string
	//go:embed lookup.lua
	lookupSource string
)

const (
	maxAge = 2 * time.Hour // of a claim, and of a fence: package routes' MaxAge, by the design's section 3
	keep   = 3 * time.Hour // of a key that is not claimed anew
)

// Routes is the routes of one region.
type Routes struct {
	client redis.UniversalClient
	prefix string
	apply  *redis.Script
	lookup *redis.Script
}

// NewRoutes returns the routes in a Redis whose keys begin with prefix (the region, where regions share a server; it
// must hold no braces).
func NewRoutes(client redis.UniversalClient, prefix string) *Routes {
	return &Routes{
		client: client, prefix: prefix, apply: redis.NewScript(applySource), lookup: redis.NewScript(lookupSource),
	}
}

// slot returns the keys of positions and fences of a partition number, and what its users' keys begin with.
func (s *Routes) slot(number int) (positions, fences, user string) {
	base := s.prefix + "{route." + strconv.Itoa(number) + "}:"
	return base + "positions", base + "fences", base + "user:"
}

// Positions returns where a partition's rows stand, by origin.
func (s *Routes) Positions(ctx context.Context, number int) (map[im.Origin]im.RoutePosition, error) {
	key, _, _ := s.slot(number)
	texts, err := s.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, fmt.Errorf("redis: positions of partition %d: %w", number, err)
	}
	all := make(map[im.Origin]im.RoutePosition, len(texts))
	for name, text := range texts {
		origin, err := im.ParseOrigin(name)
		if err != nil {
			return nil, fmt.Errorf("redis: positions of partition %d: %w", number, err)
		}
		if all[origin], err = decodePosition(text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Apply applies a batch if the stored position is batch.From; ok is false if it is another, and then nothing changed.
func (s *Routes) Apply(ctx context.Context, batch im.RouteBatch) (ok bool, err error) {
	positions, fences, user := s.slot(batch.Partition.Number)
	keys := []string{positions, fences}
	place := make(map[im.UID]int) // of a user's key in keys, from 1
	key := func(uid im.UID) int {
		i, ok := place[uid]
		if !ok {
			keys = append(keys, user+string(uid))
			i = len(keys)
			place[uid] = i
		}
		return i
	}

	expected := ""
	if batch.From != nil {
		expected = encodePosition(*batch.From)
	}
	args := make([]any, 7, 7+6*len(batch.Records))
	garbage := im.Stamp(0)
	for i := range batch.Records {
		r := &batch.Records[i].Route
		switch batch.Records[i].Kind {
		case im.KindClaim:
			dead := before(r.Claimed, maxAge)
			if old := before(r.Claimed, keep); garbage == 0 || old < garbage {
				garbage = old
			}
			args = append(args, "c", key(r.UID), string(r.Device), hex(uint64(dead)), encodeRow(r), r.Gateway.ID)
		case im.KindRelease:
			args = append(args, "r", key(r.UID), string(r.Device), encodeRow(r))
		case im.KindGatewayDown:
			// Rows below the fence were claimed before it: those dead of age keep nobody out, and it is not needed any more.
			args = append(args, "d", r.Gateway.ID, hex(r.Gateway.Epoch), hex(uint64(r.Claimed)), hex(uint64(before(r.Claimed, keep))),
				hex(uint64(r.Offset)))
		}
	}
	copy(args, []any{
		string(batch.Partition.Origin()), expected, encodePosition(batch.To), hex(uint64(batch.To.Floor)),
		int(keep.Seconds()), hex(uint64(garbage)), maxAge.Milliseconds(),
	})
	n, err := s.apply.Run(ctx, s.client, keys, args...).Int()
	if err != nil {
		return false, fmt.Errorf("redis: apply %d records of %v: %w", len(batch.Records), batch.Partition, err)
	}
	return n == 1, nil
}

// Lookup returns a user's rows in a partition number, of every origin, sorted by device, then region. Rows dead of age
// are among them until their key expires: compare Claimed.
func (s *Routes) Lookup(ctx context.Context, number int, uid im.UID) ([]im.Route, error) {
	positions, fences, user := s.slot(number)
	flat, err := s.lookup.Run(ctx, s.client, []string{positions, fences, user + string(uid)}, maxAge.Milliseconds()).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("redis: routes of %s: %w", uid, err)
	}
	all := make([]im.Route, 0, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		r, err := decodeRow(uid, flat[i], flat[i+1])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b im.Route) int {
		if c := strings.Compare(string(a.Device), string(b.Device)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Region), string(b.Region))
	})
	return all, nil
}

// before is the first stamp of the millisecond that is d before a stamp's.
func before(s im.Stamp, d time.Duration) im.Stamp {
	return im.StampAt(time.UnixMilli(max(s.Millis()-d.Milliseconds(), 0)))
}

func hex(n uint64) string { return fmt.Sprintf("%016x", n) }

// Client is the client that the routes were opened with.
func (s *Routes) Client() redis.UniversalClient { return s.client }
