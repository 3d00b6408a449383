package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/im"
)

// Backend forwards a call to the service of its name, at the instance that owns its key. Errors are *im.Error:
// unknown_service when nothing registered the name.
type Backend interface {
	Call(ctx context.Context, c im.Call) (im.CallResult, error)
}

// Routers are the routers of the own region.
type Routers interface {
	// Attach keeps a stream to every live router until ctx ends, connecting again after failures; it returns then. On
	// each new connection, and when a partition of routes changes its owner, it claims h.Claims() again.
	Attach(ctx context.Context, gw im.Gateway, h Handler) error
	// Claim returns when each claim is in the log and in its router's view, or why not, in the order of the claims.
	// replaced: a higher login has the device; login_tie: another conn has this login.
	Claim(ctx context.Context, claims []im.Claim) []error
}

// Handler takes what routers send. It never blocks for long. It is an alias, so that whoever implements Routers need not
// import this package.
type Handler = interface {
	Push(pushes []im.Push)
	Kick(k im.Kick)
	Fenced(epoch uint64)
	Claims() []im.Claim // of every live session
}

// Tokens checks a client's token. Errors are bad_token and token_expired. *auth.Verifier is one.
type Tokens interface {
	Verify(token string) (auth.Identity, error)
}

// Deps is what a gateway uses. Backend, Routers, Tokens and NextEpoch must be set.
type Deps struct {
	Backend Backend
	Routers Routers
	Tokens  Tokens
	// NextEpoch takes a new gateway epoch, greater than every earlier one of this id, after the current one was fenced.
	// Discovery must tell the new one when it returns.
	NextEpoch func(ctx context.Context) (uint64, error)
	// Alternatives returns WebSocket URLs of other gateways, best first, for clients to move to. It may be nil.
	Alternatives func() []string

	Log    *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

// Gateway holds the sockets of clients.
type Gateway struct {
	cfg      Config
	deps     Deps
	listener net.Listener
}

// New checks the configuration and binds the public address.
func New(cfg Config, deps Deps) (*Gateway, error) {
	cfg = cfg.Defaults()
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if deps.Backend == nil || deps.Routers == nil || deps.Tokens == nil || deps.NextEpoch == nil {
		return nil, errors.New("gateway: Backend, Routers, Tokens and NextEpoch must be given")
	}
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("gateway: listen on %s: %w", cfg.Listen, err)
	}
	return &Gateway{cfg: cfg, deps: deps, listener: l}, nil
}

// Addr is the bound public address.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// URL is the public base URL; WebSocketURL is where clients connect.
func (g *Gateway) URL() string {
	if g.cfg.URL != "" {
		return g.cfg.URL
	}
	return "http://" + g.Addr()
}

// WebSocketURL is the public URL of the WebSocket.
func (g *Gateway) WebSocketURL() string { return "ws" + g.URL()[len("http"):] + "/v1/ws" }

// Run serves until ctx ends, then drains: clients are told to go, the rest are closed as draining, every route is
// released. With im.ErrKilled as ctx's cause it drops everything at once instead.
func (g *Gateway) Run(ctx context.Context) error { <-ctx.Done(); return g.listener.Close() }

// Drain tells clients to go elsewhere and takes no new ones. The gateway goes on serving those it has until Run's
// context ends.
func (g *Gateway) Drain() {}

// Load tells how loaded the gateway is.
func (g *Gateway) Load() im.Load { return im.Load{Gateway: g.cfg.Gateway, Capacity: g.cfg.MaxConns} }
