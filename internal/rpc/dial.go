package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// DialConfig says how connections are made and calls bounded.
type DialConfig struct {
	TLS     *tls.Config                                              // nil: plain text, for tests
	Timeout time.Duration                                            // of unary calls whose context has no deadline; 5 s if 0
	Open    time.Duration                                            // how long a breaker stays open; 1 s if 0
	Log     *slog.Logger                                             // may be nil
	Tracer  trace.TracerProvider                                     // may be nil
	Dial    func(ctx context.Context, addr string) (net.Conn, error) // nil: by TCP

	versions wire.Versions // in tests: what is spoken instead
}

// Dial returns a connection to one server. It connects when first used and reconnects by itself, with jittered back-off
// up to a second. Errors of its calls are *im.Error: the server's own, or unavailable. Unary calls pass a breaker: after
// five failures in a row to reach the server, calls fail at once for a while. Streams do not: whoever opens one
// reconnects with a back-off of its own.
func Dial(addr string, cfg DialConfig) (*grpc.ClientConn, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Open == 0 {
		cfg.Open = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.versions == (wire.Versions{}) {
		cfg.versions = Versions()
	}
	t := &target{addr: addr, cfg: cfg}
	t.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: addr, MaxRequests: 1, Timeout: cfg.Open,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 5 },
		IsSuccessful: func(err error) bool { return !unreachable(err) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			cfg.Log.Info("breaker", "target", addr, "from", from.String(), "to", to.String())
		},
	})
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport(cfg.TLS)),
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithChainUnaryInterceptor(t.unary),
		grpc.WithChainStreamInterceptor(t.stream),
	}
	if cfg.Dial != nil {
		options = append(options, grpc.WithContextDialer(cfg.Dial))
	}
	if cfg.Tracer != nil {
		options = append(options, grpc.WithStatsHandler(clientTracing(cfg.Tracer)))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, options...)
	if err != nil {
		return nil, fmt.Errorf("rpc: %s: %w", addr, err)
	}
	return conn, nil
}

// unreachable tells whether a call failed for want of the server, not by its answer.
func unreachable(err error) bool {
	e, ok := errors.AsType[*im.Error](err)
	return ok && e.Code == im.CodeUnavailable
}

type target struct {
	addr    string
	cfg     DialConfig
	breaker *gobreaker.CircuitBreaker[struct{}]
	carrier carrier
}

func (t *target) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.cfg.Timeout)
		defer cancel()
	}
	_, err := t.breaker.Execute(func() (struct{}, error) {
		err := t.carrier.call(ctx, cc, method, req, reply)
		if errors.Is(err, errNotCarried) {
			err = invoke(telling(ctx, t.cfg.versions), method, req, reply, cc, opts...)
		}
		return struct{}{}, fromStatus(ctx, t.addr, err)
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		return &im.Error{Code: im.CodeUnavailable, Detail: t.addr + " failed repeatedly and is left alone for a moment", RetryAfter: t.cfg.Open}
	}
	return err
}

func (t *target) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(telling(ctx, t.cfg.versions), desc, cc, method, opts...)
	if err != nil {
		return nil, fromStatus(ctx, t.addr, err)
	}
	return &clientStream{s, t}, nil
}

// clientStream gives a stream's errors their codes.
type clientStream struct {
	grpc.ClientStream
	target *target
}

func (s *clientStream) SendMsg(m any) error {
	return fromStatus(s.Context(), s.target.addr, s.ClientStream.SendMsg(m))
}

func (s *clientStream) RecvMsg(m any) error {
	return fromStatus(s.Context(), s.target.addr, s.ClientStream.RecvMsg(m))
}

// Dialer keeps one connection per address. One that nobody has asked for in a while, and that is not connected, is closed when
// another address comes: instances that are gone for good leave nothing behind, however many come and go.
type Dialer struct {
	cfg DialConfig
	now func() time.Time

	mu     sync.Mutex
	conns  map[string]*dialed
	closed bool
}

// dialed is a connection that is kept.
type dialed struct {
	*grpc.ClientConn
	asked time.Time // for it, the last time
}

// forgotten is how long a connection that does not stand is kept for who may ask again.
const forgotten = 10 * time.Minute

// NewDialer returns a Dialer without connections.
func NewDialer(cfg DialConfig) *Dialer {
	return &Dialer{cfg: cfg, now: time.Now, conns: map[string]*dialed{}}
}

// Conn returns the connection to an address. It is shared: nobody closes it but the Dialer. Ask for it at each use.
func (d *Dialer) Conn(addr string) (grpc.ClientConnInterface, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	switch c := d.conns[addr]; {
	case d.closed:
		return nil, im.Errorf(im.CodeUnavailable, "no connection to %s: closing", addr)
	case c != nil:
		c.asked = now
		return c.ClientConn, nil
	}
	for other, c := range d.conns {
		if now.Sub(c.asked) > forgotten && c.GetState() != connectivity.Ready {
			c.Close()
			delete(d.conns, other)
		}
	}
	c, err := Dial(addr, d.cfg)
	if err != nil {
		return nil, err
	}
	d.conns[addr] = &dialed{c, now}
	return c, nil
}

// Renew gives up a connection that does not stand: somebody new listens at its address, and waits for no back-off or breaker
// that the former one caused.
func (d *Dialer) Renew(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.conns[addr]; c != nil && c.GetState() != connectivity.Ready {
		c.Close()
		delete(d.conns, addr)
	}
}

// Close closes all connections; calls under way fail.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for a, c := range d.conns {
		c.Close()
		delete(d.conns, a)
	}
	return nil
}
