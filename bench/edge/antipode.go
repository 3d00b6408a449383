package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/antipode-im/antipode/gateway/auth"
	"github.com/antipode-im/antipode/gateway/issue"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/internal/app"
	"github.com/antipode-im/antipode/internal/certs"
	"github.com/antipode-im/antipode/internal/registry"
	"github.com/antipode-im/antipode/internal/rpc"
	"github.com/antipode-im/antipode/internal/telemetry"
	"github.com/antipode-im/antipode/wire"
)

const region = im.Region("eu")

// serveGateway is the measured process: a gateway as production builds it, whose discovery lists one router.
func serveGateway(ctx context.Context, args []string) error {
	if len(args) != 3 && (len(args) != 4 || args[3] != "tls") {
		return errors.New("want: gateway CERTS ROUTER KEY [tls]")
	}
	authority, err := certs.Open(args[0])
	if err != nil {
		return err
	}
	identity, err := authority.Identity(app.ServiceGateway, region)
	if err != nil {
		return err
	}
	discovery := registry.NewMemory(time.Hour)
	if _, err := discovery.Register(ctx, im.Instance{Service: app.ServiceRouter, ID: "router", Region: region, Addr: args[1]}); err != nil {
		return err
	}
	site := app.Site{
		Region: region, Origin: im.NewOrigin(region, 1), Regions: []im.Region{region}, Partitions: 16,
		Tokens: auth.Config{Keys: []auth.Key{{ID: "bench", Algorithm: auth.EdDSA, Public: args[2]}}},
	}
	site.Gateway.MaxConns, site.Gateway.MaxConnsPerIP, site.Gateway.HandshakeRate = 50_000, 50_000, 1e6
	if len(args) > 3 { // the service's own certificate does for clients of a benchmark
		name := filepath.Join(args[0], certs.Name(app.ServiceGateway, region))
		site.ClientCert, site.ClientKey = name+".pem", name+"-key.pem"
	}
	env := app.Env{
		Discovery: discovery,
		Identity:  func(string) (*certs.Identity, error) { return identity, nil },
		Telemetry: func(service, instance, admin string) (*telemetry.Telemetry, error) {
			return telemetry.New(telemetry.Config{
				Service: service, Region: string(region), Instance: instance, Admin: "127.0.0.1:0", LogWriter: os.Stderr, LogLevel: 8,
			})
		},
	}
	svc, g, err := app.Gateway(ctx, site, env, app.Binding{ID: "bench", Public: "127.0.0.1:0", RPC: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	fmt.Println(g.Addr())
	return svc.Run(ctx)
}

// world is what a gateway needs: a router that grants every claim at once, and keeps the conns to push to.
type world struct {
	dir    string
	issuer *issue.Issuer
	rpc    string
	public string

	encrypted bool // TLS ends in the gateway
	trust     *tls.Config

	mu    sync.Mutex
	out   rpc.Outbox
	conns []uint64
	live  chan struct{} // a gateway has attached
}

func newWorld(ctx context.Context, dir string) (*world, error) {
	issuer, err := issue.New("bench", nil)
	if err != nil {
		return nil, err
	}
	authority, err := certs.Open(dir)
	if err != nil {
		return nil, err
	}
	identity, err := authority.Identity(app.ServiceRouter, region)
	if err != nil {
		return nil, err
	}
	s, err := rpc.NewServer(rpc.ServerConfig{Addr: "127.0.0.1:0", TLS: identity.Server(region)})
	if err != nil {
		return nil, err
	}
	w := &world{
		dir: dir, issuer: issuer, rpc: s.Addr(), live: make(chan struct{}, 1),
		trust: &tls.Config{RootCAs: identity.Roots, ServerName: certs.Name(app.ServiceGateway, region), MinVersion: tls.VersionTLS13},
	}
	rpc.RegisterRouter(ctx, s, w)
	go func() {
		if err := s.Run(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "edge: router:", err)
		}
	}()
	return w, nil
}

func (w *world) Attach(_ im.Gateway, out rpc.Outbox) (rpc.Attachment, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out, w.conns = out, nil
	select {
	case w.live <- struct{}{}:
	default:
	}
	return attachment{w}, nil
}

type attachment struct{ w *world }

func (a attachment) Submit(claims []im.Claim, done func(i int, err error)) {
	a.w.mu.Lock()
	for _, c := range claims {
		if !c.Release && !c.Offline {
			a.w.conns = append(a.w.conns, c.Conn)
		}
	}
	a.w.mu.Unlock()
	for i := range claims {
		done(i, nil)
	}
}
func (attachment) Heartbeat() {}
func (attachment) Interest()  {}
func (attachment) Close()     {}

func (w *world) Deliver(context.Context, []im.Delivery) (int, error)         { return 0, nil }
func (w *world) Interest() bool                                              { return true }
func (w *world) Notify(context.Context, im.Region, []im.Delivery) error      { return nil }
func (w *world) Positions(context.Context, im.Origin) ([]im.Position, error) { return nil, nil }
func (w *world) Digest(context.Context) (map[string]string, error)           { return nil, nil }
func (w *world) addr() string                                                { return w.public }
func (w *world) dialect() dialect                                            { return w }
func (w *world) path() string                                                { return "/v1/ws" }
func (w *world) subprotocol() string                                         { return wire.SubprotocolProtobuf }

func (w *world) opcode() byte { return wire.BinaryMessage }

func (w *world) heartbeat() []byte { return w.encode(wire.FrameOf(&wire.Ping{})) }

func (w *world) ready(b []byte) bool { return len(b) > 0 && b[0] == 2<<3|2 }

func (w *world) encode(f *wire.Frame) []byte {
	c, err := wire.NewCodec(wire.SubprotocolProtobuf)
	if err != nil {
		return nil
	}
	b, err := c.Encode(f)
	if err != nil {
		return nil
	}
	return b
}

func (w *world) start(ctx context.Context) (*process, error) {
	select {
	case <-w.live:
	default:
	}
	args := []string{"gateway", w.dir, w.rpc, w.issuer.Key().Public}
	if w.encrypted {
		args = append(args, "tls")
	}
	p, err := spawn(ctx, nil, os.Args[0], args...)
	if err != nil {
		return nil, err
	}
	if w.public, err = p.line(); err != nil || w.public == "" {
		p.stop()
		return nil, fmt.Errorf("the gateway did not start: %w", err)
	}
	select {
	case <-w.live:
		return p, nil
	case <-time.After(30 * time.Second):
		p.stop()
		return nil, errors.New("the gateway did not attach")
	}
}

func (w *world) dial(ctx context.Context) (net.Conn, error) {
	c, err := dial(ctx, w.addr())
	if err != nil || !w.encrypted {
		return c, err
	}
	over := tls.Client(c, w.trust)
	if err := over.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return over, nil
}

func (w *world) login(i int) []byte {
	token, err := w.issuer.Token(im.UID(fmt.Sprint("user-", i)), time.Now().Add(time.Hour))
	if err != nil {
		return nil
	}
	return w.encode(wire.FrameOf(&wire.Hello{Token: token, Device: fmt.Sprintf("device-%012d", i), Platform: "android", Login: 1, Agent: "edge"}))
}

// push sends 300 B that begin with the time.
func (w *world) push(context.Context) error {
	body := make([]byte, messageBytes)
	binary.BigEndian.PutUint64(body, uint64(time.Now().UnixNano()))
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Push([]im.Push{{Conns: w.conns, Service: "bench", Method: "event", Body: body}})
}

// ackEvery is how many pushes a client acknowledges at once, on average: clients of a crowd do not do it together.
const ackEvery = 32

func (w *world) message(b []byte, pushes int64) (sent []int64, answer []byte) {
	if len(b) < messageBytes || b[0] != 7<<3|2 {
		return nil, nil
	}
	sent = []int64{int64(binary.BigEndian.Uint64(b[len(b)-messageBytes:]))}
	if rand.IntN(ackEvery) == 0 {
		answer = w.encode(wire.FrameOf(&wire.PushAck{Number: uint64(pushes + 1)}))
	}
	return sent, answer
}

// filler makes a message as long as the other server's.
func filler(n int) string { return strings.Repeat("x", n) }
