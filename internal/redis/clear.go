package redis

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// clearScan is how many keys are looked at, and deleted, at once.
const clearScan = 1000

// Clear deletes the routes and positions whose keys begin with a prefix: routers derive them from the logs again. Nothing
// may be writing meanwhile.
func Clear(ctx context.Context, client redis.UniversalClient, prefix string) error {
	clear := func(ctx context.Context, node redis.UniversalClient) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, prefix+"{route.*", clearScan).Result()
			if err != nil {
				return fmt.Errorf("redis: clear routes: %w", err)
			}
			for _, key := range keys { // of different slots: a cluster takes one at a time
				if err := node.Unlink(ctx, key).Err(); err != nil {
					return fmt.Errorf("redis: clear routes: %w", err)
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return clear(ctx, node) })
	}
	return clear(ctx, client)
}
