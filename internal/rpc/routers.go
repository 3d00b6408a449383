package rpc

import (
	"context"
	"log/slog"
	"time"

	"github.com/antipode-im/antipode/im"
)

// RoutersConfig is how a gateway keeps its streams to the region's routers. Zero values take the defaults in the
// comments.
type RoutersConfig struct {
	Heartbeat    time.Duration // 1 s
	ClaimTimeout time.Duration // 5 s: for one claim, over all attempts
	Renew        time.Duration // 1 h: every live claim is claimed anew once in it, spread
	BackoffMax   time.Duration // 2 s: between attempts to reach a router
}

// RoutersDeps is what it works with.
type RoutersDeps struct {
	Conns Conns
	// Watch calls fn with the region's live routers, at once and at each change, until ctx ends.
	Watch func(ctx context.Context, fn func([]im.Instance)) error
	// Owner returns the id of the router that owns the partition of a uid among the live ones.
	Owner  func(uid im.UID, live []im.Instance) string
	Logger *slog.Logger
}

// RoutersHandler is the gateway.
type RoutersHandler interface {
	// Push, Kick and Fenced are called in the order in which one router sent them.
	Push([]im.Push)
	Kick(im.Kick)
	Fenced(epoch uint64)
	// Claims returns every live claim. A conn must have left it before its release is passed to Routers.Claim.
	Claims() []im.Claim
}

// Routers keeps a gateway attached to every live router of its region.
type Routers struct{}

// NewRouters returns Routers; Attach makes it work.
func NewRouters(cfg RoutersConfig, deps RoutersDeps) *Routers { return &Routers{} }

// Attach keeps a stream to every live router until ctx ends (nil) or a router says that the gateway's epoch was
// declared down: then, after h.Fenced, it returns CodeGatewayFenced, and is to be called again with the next epoch.
func (r *Routers) Attach(ctx context.Context, gw im.Gateway, h RoutersHandler) error { return nil }

// Claim sends each claim to the owner of its uid's partition and returns, per claim, when it is in the log and in that
// router's view. It tries again, with other routers if need be, until ctx or the claim timeout ends.
func (r *Routers) Claim(ctx context.Context, claims []im.Claim) []error {
	return make([]error, len(claims))
}
