package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/gateway/wheel"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// Backend forwards a call to the service of its name, at the instance that owns its key. Errors are *im.Error:
// unknown_service when nothing registered the name.
type Backend interface {
	Call(ctx context.Context, c im.Call) (im.CallResult, error)
}

// Routers are the routers of the own region.
type Routers interface {
	// Attach keeps a stream to every live router until ctx ends, connecting again after failures. On each new
	// connection, when a partition of routes changes its owner, and once in an hour, it claims h.Claims() again. When a
	// router says that the gateway's epoch was declared dead it calls h.Fenced and returns gateway_fenced: it is to be
	// called again under the next epoch.
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
	// Neighbours gives up sessions whose clients resume here. It may be nil: then a session ends with its gateway.
	Neighbours Neighbours
	// Alternatives returns WebSocket URLs of other gateways, best first, for clients to move to. It may be nil.
	Alternatives func() []string

	Log    *slog.Logger
	Tracer trace.Tracer
	Meter  metric.Meter
}

// Gateway holds the sockets of clients.
type Gateway struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	tracer  trace.Tracer

	listener  *gate
	hub       *hub
	claims    *claimQueue
	interests *interests
	telling   atomic.Bool    // services say which large groups sessions are in
	rates     *rates[im.UID] // of HTTP calls, where no conn has one
	admission *admission
	conns     *table
	polls     *polls
	poller    poll.Poller
	flushers  []*flusher
	clocks    []*wheel.Wheel
	buffers   ws.Buffers
	codecs    map[string]*wire.Codec
	pongs     map[int][]byte // by message type
	began     time.Time      // of the gateway's clock
	begun     chan struct{}  // closed when this process serves

	random func(bytes int) string // makes session ids and secrets; replaced by the test that replays the protocol's example
	now    func() time.Time       // what welcome tells; likewise

	connNo   atomic.Uint64
	draining atomic.Bool
	load     loadMeter

	base context.Context // of calls and claims: ends when Run is about to return
	end  context.CancelFunc

	quic *quicServer // nil: no WebTransport

	predecessor *predecessor  // the process to take over from; nil: none
	successor   successor     // the process that takes over
	reached     chan struct{} // closed when a router was first reached
	reachedOnce sync.Once
	frozen      atomic.Bool  // sockets and sessions are being moved: nothing is due
	callsUnder  atomic.Int64 // calls under way on conns
	upgrading   atomic.Int64 // upgrades under way
	departed    atomic.Int64 // sessions that were given up, while what comes for them is passed on

	connTurn atomic.Uint64  // spreads conns over flushers and clocks
	joining  atomic.Int64   // logins under way
	logins   sync.WaitGroup // the same
	calls    sync.WaitGroup
	handlers sync.WaitGroup // HTTP

	httpCalls chan struct{} // one slot per HTTP call under way
	pollReads chan struct{} // one slot per poll whose body is being read

	mu       sync.Mutex
	epoch    uint64 // of the gateway; changes when it is fenced
	reattach context.CancelFunc
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
	g := &Gateway{
		cfg: cfg, deps: deps, log: deps.Log, tracer: deps.Tracer, random: randomText, now: time.Now,
		hub: newHub(), claims: newClaimQueue(4 * cfg.MaxConns), rates: newRates[im.UID](cfg.Rate, cfg.Burst),
		httpCalls: make(chan struct{}, cfg.MaxHTTPCalls), pollReads: make(chan struct{}, cfg.MaxHTTPCalls), polls: newPolls(cfg.MaxPolls),
		conns: newTable(cfg.MaxConns, cfg.MaxConnsPerIP), epoch: cfg.Gateway.Epoch, began: time.Now(),
		reached: make(chan struct{}), begun: make(chan struct{}), successor: successor{over: make(chan struct{})},
		codecs: map[string]*wire.Codec{}, pongs: map[int][]byte{},
	}
	for _, name := range wire.Subprotocols() {
		codec, err := wire.NewCodec(name)
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
		g.codecs[name] = codec
		if g.pongs[codec.MessageType()], err = codec.Encode(wire.FrameOf(&wire.Pong{})); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	for range runtime.GOMAXPROCS(0) {
		g.flushers = append(g.flushers, newFlusher())
	}
	for range clocks {
		g.clocks = append(g.clocks, wheel.New(tick))
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.tracer == nil {
		g.tracer = tracenoop.NewTracerProvider().Tracer("gateway")
	}
	if deps.Meter == nil {
		deps.Meter = metricnoop.NewMeterProvider().Meter("gateway")
	}
	var err error
	if g.metrics, err = newMetrics(deps.Meter); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g.interests = newInterests(cfg.Region, cfg.Gateway.ID, func() uint64 { return g.connNo.Add(1) }, g.claims.putFor, g.metrics.shed)
	g.interests.hand = func(s *session, p *groupPush, traced bool) { g.pushTo(s, p.push, p.at, traced) }
	if err := g.listen(); err != nil {
		return nil, err
	}
	if g.poller, err = g.newPoller(); err != nil {
		g.listener.Close()
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if g.cfg.QUIC != "" {
		if g.quic, err = g.newQUIC(); err != nil {
			g.listener.Close()
			g.poller.Close()
			return nil, err
		}
	}
	g.admission = newAdmission(&g.cfg)
	g.load.total = g.metrics.bytes.Load
	g.base, g.end = context.WithCancel(context.Background())
	return g, nil
}

// listen takes the listener of the process that served before, if there is one, or binds.
func (g *Gateway) listen() error {
	if g.cfg.Handoff != "" {
		p, err := findPredecessor(&g.cfg)
		if err != nil {
			return err
		}
		if p != nil {
			g.predecessor, g.listener, g.epoch = p, g.newGate(p.listener), p.offer.Epoch
			g.cfg.Gateway.Epoch = p.offer.Epoch
			g.connNo.Store(p.offer.ConnNo + connNoGap)
			return nil
		}
	}
	listen := net.ListenConfig{KeepAlive: -1} // the gate sets all options
	l, err := listen.Listen(context.Background(), "tcp", g.cfg.Listen)
	if err != nil {
		return fmt.Errorf("gateway: listen on %s: %w", g.cfg.Listen, err)
	}
	g.listener = g.newGate(l)
	close(g.begun)
	return nil
}

// Addr is the bound public address.
func (g *Gateway) Addr() string { return g.listener.Addr().String() }

// URL is the public base URL: that of the HTTP fallback.
func (g *Gateway) URL() string {
	if g.cfg.URL != "" {
		return strings.TrimSuffix(g.cfg.URL, "/")
	}
	if g.cfg.Certificate != nil {
		return "https://" + g.Addr()
	}
	return "http://" + g.Addr()
}

// WebSocketURL is the public URL of the WebSocket.
func (g *Gateway) WebSocketURL() string { return "ws" + strings.TrimPrefix(g.URL(), "http") + "/v1/ws" }

// Gateway names this life of the gateway: its id and its present epoch.
func (g *Gateway) Gateway() im.Gateway {
	g.mu.Lock()
	defer g.mu.Unlock()
	return im.Gateway{ID: g.cfg.Gateway.ID, Epoch: g.epoch}
}

// Run serves until ctx ends, then drains: clients are told to go, the rest are closed as draining, every route is
// released, all within the drain timeout. With im.ErrKilled as ctx's cause it drops everything at once instead.
//
// When another process has taken over, Run returns ErrTakenOver after passing on, for a moment, what routers still send
// here.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.end()
	server := &http.Server{
		Handler:           g.handler(),
		ReadHeaderTimeout: g.cfg.HelloTimeout,
		ReadTimeout:       g.cfg.CallTimeout,
		WriteTimeout:      2*g.cfg.CallTimeout + time.Second,
		IdleTimeout:       g.cfg.IdleTimeout,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	var clients net.Listener = g.listener
	if g.cfg.Certificate != nil {
		clients = g.newSecure(g.listener)
	}
	server.ConnState = settled
	var background sync.WaitGroup
	background.Go(g.attach)
	background.Go(func() {
		g.claims.run(g.base, g.cfg.ClaimTimeout, g.deps.Routers.Claim, func(n int, err error) {
			g.log.Warn("claims that nobody waits for were given up", "claims", n, "err", err)
		})
	})
	background.Go(g.tick)
	background.Go(g.askRolls)
	for _, f := range g.flushers {
		background.Go(func() { f.run(g.base, g.metrics) })
	}
	for _, w := range g.clocks {
		background.Go(func() { w.Run(g.base.Done()) })
	}
	failed := make(chan error, 2)
	abandon := false // what the other process has must not be released
	if g.predecessor != nil {
		if err := g.takeOverAll(ctx); err != nil {
			abandon = true
			failed <- err
		} else {
			close(g.begun)
		}
	}
	settle := func() {}
	if g.cfg.Handoff != "" && len(failed) == 0 {
		o, err := g.offerHandoff()
		if err != nil {
			failed <- err
		} else {
			defer o.close()
			settle = func() { o.settle(g.cfg.DrainTimeout / 2) }
		}
	}
	background.Go(func() {
		if err := server.Serve(clients); !errors.Is(err, http.ErrServerClosed) && !g.successor.has() {
			failed <- fmt.Errorf("gateway: serve %s: %w", g.Addr(), err)
		}
	})
	if g.quic != nil {
		g.quic.begin()
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case <-g.successor.over:
	}
	if !errors.Is(context.Cause(ctx), im.ErrKilled) {
		settle()
	}
	if g.successor.has() && err == nil {
		g.linger(ctx, server)
	}
	if !g.successor.has() && !abandon && !errors.Is(context.Cause(ctx), im.ErrKilled) {
		g.drain(server)
	}
	server.Close()
	for _, c := range g.conns.stop() { // before calls are cut short: a crash answers nothing
		c.drop()
	}
	if g.quic != nil {
		patience := linger
		if errors.Is(context.Cause(ctx), im.ErrKilled) {
			patience = 0
		}
		g.quic.stop(patience)
	}
	g.end()
	g.logins.Wait()
	g.calls.Wait()
	g.handlers.Wait()
	background.Wait()
	g.poller.Close()
	if g.successor.has() && err == nil {
		return ErrTakenOver
	}
	return err
}

// drain moves clients to other gateways: half of the time is theirs to go, then they are closed. Their sessions can be taken
// by other gateways nearly to the end, and what still comes for those that were is passed on.
func (g *Gateway) drain(server *http.Server) {
	began := time.Now()
	part := func(tenths int) time.Time { return began.Add(g.cfg.DrainTimeout * time.Duration(tenths) / 10) }
	g.Drain()
	await(part(5), drainLook, func() bool { return g.conns.size.Load() == 0 })
	if left := g.conns.all(); len(left) > 0 {
		for _, c := range left {
			c.close(errDraining)
		}
		await(part(8), drainLook, func() bool { return g.conns.size.Load() == 0 && int64(g.hub.size()) == g.departed.Load() })
	}
	for _, s := range g.hub.all() {
		g.endSession(s, errDraining, nil)
	}
	await(part(9), drainLook, func() bool { return g.departed.Load() == 0 })
	ctx, cancel := context.WithDeadline(context.Background(), part(10))
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		g.log.Warn("HTTP calls were cut short by the end of the drain", "err", err)
	}
	select {
	case <-g.claims.settled():
	case <-ctx.Done():
		g.log.Warn("the drain ended before every route was released; routers will find the gateway down")
	}
}

// drainLook is how often a drain looks whether what it waits for has come.
const drainLook = 20 * time.Millisecond

// await looks every so often whether a state holds, until it does or a time has come. It is for what happens once in a
// process's life, a drain or a restart: the paths of every conn and call need not signal what only these wait for.
func await(until time.Time, every time.Duration, holds func() bool) {
	for !holds() && time.Now().Before(until) {
		time.Sleep(min(every, time.Until(until)))
	}
}

// Drain tells clients to go elsewhere and takes no new ones. The gateway goes on serving those it has until Run's
// context ends.
func (g *Gateway) Drain() {
	if g.draining.Swap(true) {
		return
	}
	g.log.Info("draining", "conns", g.conns.size.Load())
	g.tellAll(g.goaway())
}

// Evacuate tells clients to go to another region within a time; each goes after a random part of it. Who comes is taken
// as ever: what the region may be given is ipconf's to say.
func (g *Gateway) Evacuate(within time.Duration) {
	g.log.Info("the region is left: telling clients", "conns", g.conns.size.Load(), "within", within)
	g.tellAll(wire.FrameOf(&wire.Goaway{WithinMs: uint32(within.Milliseconds())})) // ipconf knows where to
}

func (g *Gateway) tellAll(f *wire.Frame) {
	for _, s := range g.hub.all() {
		s.mu.Lock()
		c := s.conn
		s.mu.Unlock()
		if c != nil {
			c.send(f)
		}
	}
}

// Behind tells all clients that they are behind, one after another over a time: the region has what no push brought them. Who comes
// meanwhile lists anyway, or is in a session that is told. It returns when all are told, or ctx ends.
func (g *Gateway) Behind(ctx context.Context, over time.Duration) {
	sessions := g.hub.all()
	g.log.Info("the region has what no push brought: telling clients", "sessions", len(sessions), "over", over)
	spread(ctx, len(sessions), over, func(i int) {
		if s := sessions[i]; s.isHere() {
			s.miss()
		}
	})
}

// spread calls tell for each of n, evenly over a time, until ctx ends.
func spread(ctx context.Context, n int, over time.Duration, tell func(i int)) {
	began := time.Now()
	tick := time.NewTicker(tick)
	defer tick.Stop()
	for told := 0; ; {
		due := n
		if passed := time.Since(began); passed < over {
			due = int(float64(n) * passed.Seconds() / over.Seconds())
		}
		for ; told < due; told++ {
			tell(told)
		}
		if told == n {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// goaway gives clients three tenths of the drain's time: each goes after a random part of it.
func (g *Gateway) goaway() *wire.Frame {
	f := &wire.Goaway{WithinMs: uint32((g.cfg.DrainTimeout / 10 * 3).Milliseconds())}
	if g.deps.Alternatives != nil {
		f.Alternatives = g.deps.Alternatives()
	}
	return wire.FrameOf(f)
}

// removeConn counts a conn out.
func (g *Gateway) removeConn(c *conn) {
	if g.conns.remove(c) {
		g.conns.release(c.ip)
		g.metrics.conns(-1)
	}
}

// clocks is how many timing wheels there are, and tick their grain.
const (
	clocks = 4
	tick   = 10 * time.Millisecond
)

// newPoller starts what watches the sockets: half as many loops as cores, since handling a frame costs less than writing.
func (g *Gateway) newPoller() (poll.Poller, error) {
	if g.cfg.Goroutines {
		return &poll.Goroutines{}, nil
	}
	return poll.New((runtime.GOMAXPROCS(0) + 1) / 2)
}

// tick does once a second what costs little: the load, allowances of users who left, sessions of which no service said which
// groups they are in.
func (g *Gateway) tick() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-g.base.Done():
			return
		case now := <-t.C:
			g.load.sample(now)
			g.rates.sweep(now)
			g.admission.sample(now)
			g.inform(int(now.Unix()))
		}
	}
}

// Load tells how loaded the gateway is.
func (g *Gateway) Load() im.Load {
	conns := int(g.conns.size.Load())
	g.mu.Lock()
	gw := im.Gateway{ID: g.cfg.Gateway.ID, Epoch: g.epoch}
	g.mu.Unlock()
	bytesPerSecond, cpu := g.load.read()
	return im.Load{
		Gateway: gw, Conns: conns, Capacity: g.cfg.MaxConns,
		BytesPerSecond: bytesPerSecond, BytesCapacity: g.cfg.Bandwidth, CPU: cpu,
		Draining: g.draining.Load(), Version: g.cfg.Version,
	}
}
