package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
	"github.com/antipode-im/antipode/wire"
)

// MaxMessage bounds one message of a call or stream, in bytes.
const MaxMessage = 16 << 20

// Flow control windows of a stream and of a connection, in bytes. Without fixed ones gRPC measures the bandwidth by a ping
// and its answer for nearly every message, which costs a seventh of a small call's CPU.
const (
	streamWindow = 4 << 20
	connWindow   = 16 << 20
)

// ServerConfig says where and how a server listens.
type ServerConfig struct {
	Addr   string                                  // host:port; port 0 takes any free one
	Listen func(addr string) (net.Listener, error) // binds it; nil: as usual
	TLS    *tls.Config                             // nil: plain text, for tests
	Drain  time.Duration                           // how long calls under way may take when Run's context ends; 5 s if 0
	Log    *slog.Logger                            // may be nil
	Tracer trace.TracerProvider                    // may be nil

	versions wire.Versions // in tests: what is spoken instead
}

// Server is a gRPC server that is bound but not yet serving: register services on it, then Run.
type Server struct {
	cfg      ServerConfig
	listener *closableListener
	grpc     *grpc.Server
	health   *health.Server
	calls    *callsServer
	stopping chan struct{} // closed when Run's context ends
}

// NewServer binds. A taken port is an error that names it.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Drain == 0 {
		cfg.Drain = 5 * time.Second
	}
	if cfg.versions == (wire.Versions{}) {
		cfg.versions = Versions()
	}
	listen := cfg.Listen
	if listen == nil {
		listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	l, err := listen(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("rpc: cannot listen: %w", err)
	}
	s := &Server{cfg: cfg, listener: &closableListener{Listener: l}, health: health.NewServer(), stopping: make(chan struct{})}
	s.calls = &callsServer{methods: map[string]carried{}, interceptor: s.unary, stopping: s.stopping}
	options := []grpc.ServerOption{
		grpc.Creds(transport(cfg.TLS)),
		grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(s.versionedUnary, s.unary),
		grpc.ChainStreamInterceptor(s.versionedStream, s.stream),
	}
	if cfg.Tracer != nil {
		options = append(options, grpc.StatsHandler(serverTracing(cfg.Tracer)))
	}
	s.grpc = grpc.NewServer(options...)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	antipodev1.RegisterCallsServer(s.grpc, s.calls)
	return s, nil
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.calls.add(desc, impl)
}

// Addr is the host:port that the server is bound to.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx ends, then lets calls under way finish within the drain deadline. Long streams end when their
// service ends them; those that are left at the deadline are cut. When ctx ends by im.ErrKilled everything is dropped
// at once.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("rpc: server on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	close(s.stopping)
	if !errors.Is(context.Cause(ctx), im.ErrKilled) {
		s.health.Shutdown()
		stopped := make(chan struct{})
		go func() { s.grpc.GracefulStop(); close(stopped) }()
		select {
		case <-stopped:
		case <-time.After(s.cfg.Drain):
			s.cfg.Log.Warn("calls were still under way at the drain deadline and are cut", "deadline", s.cfg.Drain)
		}
		s.listener.closeConns()
		s.grpc.Stop()
		<-stopped
	} else {
		s.listener.closeConns()
		s.grpc.Stop()
	}
	<-served
	return nil
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer s.recovered(info.FullMethod, &err)
	resp, err = handle(ctx, req)
	return resp, toStatus(err)
}

func (s *Server) stream(impl any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	defer s.recovered(info.FullMethod, &err)
	return toStatus(handle(impl, ss))
}

// recovered keeps one call's bug from taking the process: the caller gets an internal error, the log the stack.
func (s *Server) recovered(method string, err *error) {
	if r := recover(); r != nil {
		s.cfg.Log.Error("a call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = toStatus(im.Errorf(im.CodeInternal, "%s failed", method))
	}
}

func transport(cfg *tls.Config) credentials.TransportCredentials {
	if cfg == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(cfg)
}
