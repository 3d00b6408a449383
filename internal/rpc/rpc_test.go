package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// raw is a Backend and a Replicator whose behaviour a test sets.
type raw struct {
	antipodev1.UnimplementedBackendServer
	antipodev1.UnimplementedReplicatorServer
	call func(ctx context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error)
	held func(s grpc.ServerStreamingServer[antipodev1.HeldResponse]) error
}

func (r *raw) Call(ctx context.Context, req *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
	return r.call(ctx, req)
}

func (r *raw) Held(_ *antipodev1.HeldRequest, s grpc.ServerStreamingServer[antipodev1.HeldResponse]) error {
	return r.held(s)
}

// serve runs a server with both services until the test ends or stop is called.
func serve(t *testing.T, cfg ServerConfig, r *raw) (addr string, stop func(cause error)) {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	antipodev1.RegisterBackendServer(s, r)
	antipodev1.RegisterReplicatorServer(s, r)
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func(cause error) {
		if ended {
			return
		}
		ended = true
		cancel(cause)
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	}
	t.Cleanup(func() { stop(nil) })
	return s.Addr(), stop
}

func dial(t *testing.T, addr string, cfg DialConfig) *grpc.ClientConn {
	t.Helper()
	c, err := Dial(addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestErrorsKeepTheirCodes(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var answer error
	r := &raw{
		call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
			if answer == nil {
				panic("out of cheese")
			}
			return nil, answer
		},
		held: func(s grpc.ServerStreamingServer[antipodev1.HeldResponse]) error {
			if err := s.Send(&antipodev1.HeldResponse{Peers: 2}); err != nil {
				return err
			}
			return answer
		},
	}
	addr, stop := serve(t, ServerConfig{}, r)
	conn := dial(t, addr, DialConfig{})
	call := func() error {
		_, err := antipodev1.NewBackendClient(conn).Call(t.Context(), &antipodev1.BackendCallRequest{})
		return err
	}
	held := func() error {
		s, err := antipodev1.NewReplicatorClient(conn).Held(t.Context(), &antipodev1.HeldRequest{})
		if err != nil {
			return err
		}
		if m, err := s.Recv(); err != nil || m.Peers != 2 {
			t.Errorf("first message: %v, %v", m, err)
		}
		_, err = s.Recv()
		return err
	}
	for _, c := range im.Codes() {
		want := &im.Error{Code: c, Detail: "because of " + string(c), RetryAfter: 1500 * time.Millisecond}
		answer = want
		for name, try := range map[string]func() error{"call": call, "stream": held} {
			got, ok := errors.AsType[*im.Error](try())
			if !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v came back as %v", name, want, got)
			}
		}
	}
	answer = errors.New("pq: secret detail")
	if err := call(); im.CodeOf(err) != im.CodeInternal {
		t.Errorf("an error without a code: %v", err)
	}
	answer = nil
	if err := call(); im.CodeOf(err) != im.CodeInternal || strings.Contains(err.Error(), "cheese") {
		t.Errorf("a panic: %v", err)
	}
	if err := held(); err != io.EOF {
		t.Errorf("the end of a stream: %v", err)
	}
	_, err := antipodev1.NewRouterClient(conn).Digest(t.Context(), &antipodev1.DigestRequest{})
	if im.CodeOf(err) != im.CodeUnknownMethod {
		t.Errorf("a service that is not there: %v", err)
	}
	health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || health.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	conn.Close()
	stop(nil)
}

func TestMessagesAreBounded(t *testing.T) {
	addr, _ := serve(t, ServerConfig{}, &raw{call: func(_ context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		return &antipodev1.BackendCallResponse{Body: r.Body}, nil
	}})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{Timeout: time.Minute}))
	if r, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{Body: make([]byte, MaxMessage-1024)}); err != nil || len(r.Body) != MaxMessage-1024 {
		t.Errorf("a message below the limit: %v", err)
	}
	_, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{Body: make([]byte, MaxMessage+1)})
	if im.CodeOf(err) != im.CodeBadRequest {
		t.Errorf("a message above the limit: %v", err)
	}
}

// TestBreaker: calls to a server that is not there fail at once after a few attempts, and get through soon after it is.
func TestBreaker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{Open: 100 * time.Millisecond}))
	call := func() error {
		_, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{})
		return err
	}
	opened := false
	for range 20 {
		err := call()
		if im.CodeOf(err) != im.CodeUnavailable {
			t.Fatalf("without a server: %v", err)
		}
		if opened = strings.Contains(err.Error(), "left alone"); opened {
			break
		}
	}
	if !opened {
		t.Error("the breaker never opened")
	}
	var refused atomic.Bool
	refused.Store(true)
	serve(t, ServerConfig{Addr: addr}, &raw{call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		if refused.Load() {
			return nil, im.Errorf(im.CodeNotMember, "no")
		}
		return &antipodev1.BackendCallResponse{}, nil
	}})
	until(t, func() bool { return im.CodeOf(call()) == im.CodeNotMember })
	for range 10 { // refusals are answers: they do not open it
		if err := call(); im.CodeOf(err) != im.CodeNotMember {
			t.Fatalf("after many refusals: %v", err)
		}
	}
	refused.Store(false)
	if err := call(); err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came to pass")
		}
	}
}

func TestDeadlines(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	addr, _ := serve(t, ServerConfig{Drain: time.Millisecond}, &raw{call: func(ctx context.Context, _ *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		select {
		case <-ctx.Done():
		case <-release:
		}
		return nil, ctx.Err()
	}})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{Timeout: 30 * time.Millisecond}))
	_, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{})
	if im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("after the default deadline: %v", err)
	}
	cause := errors.New("the caller went home")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := client.Call(ctx, &antipodev1.BackendCallRequest{}); !errors.Is(err, cause) {
		t.Errorf("cancelled by the caller: %v", err)
	}
}

// TestStop: a drain lets a call under way finish; a kill does not.
func TestStop(t *testing.T) {
	for _, kill := range []bool{false, true} {
		entered, release := make(chan struct{}), make(chan struct{})
		addr, stop := serve(t, ServerConfig{}, &raw{call: func(ctx context.Context, _ *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
			close(entered)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return &antipodev1.BackendCallResponse{}, nil
		}})
		client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{}))
		answered := make(chan error, 1)
		go func() {
			_, err := client.Call(context.Background(), &antipodev1.BackendCallRequest{})
			answered <- err
		}()
		<-entered
		if kill {
			stop(im.ErrKilled)
			if err := <-answered; im.CodeOf(err) != im.CodeUnavailable {
				t.Errorf("a call when the server is killed: %v", err)
			}
			close(release)
			continue
		}
		stopped := make(chan struct{})
		go func() { stop(nil); close(stopped) }()
		until(t, func() bool { // refuses newcomers
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
		close(release)
		if err := <-answered; err != nil {
			t.Errorf("a call during a drain: %v", err)
		}
		<-stopped
	}
}

func TestServerNamesATakenPort(t *testing.T) {
	addr, _ := serve(t, ServerConfig{}, &raw{})
	_, err := NewServer(ServerConfig{Addr: addr})
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("a taken port: %v", err)
	}
}

func TestPlainTextDoesNotReachTLS(t *testing.T) {
	addr, _ := serve(t, ServerConfig{TLS: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return nil, errors.New("none")
	}}}, &raw{})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{Timeout: time.Second}))
	if _, err := client.Call(t.Context(), &antipodev1.BackendCallRequest{}); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("plain text to TLS: %v", err)
	}
}

func TestDialer(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server, stop := serve(t, ServerConfig{}, &raw{call: func(context.Context, *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		return new(antipodev1.BackendCallResponse), nil
	}})
	now := time.Now()
	d := NewDialer(DialConfig{})
	d.now = func() time.Time { return now }
	conn := func(addr string) grpc.ClientConnInterface {
		t.Helper()
		c, err := d.Conn(addr)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const gone, asked = "127.0.0.1:1", "127.0.0.1:2"
	a, b, stands := conn(gone), conn(asked), conn(server)
	if conn(gone) != a {
		t.Error("two connections to one address")
	}
	if _, err := antipodev1.NewBackendClient(stands).Call(t.Context(), new(antipodev1.BackendCallRequest)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for standing := stands.(*grpc.ClientConn); ; { // a call may be answered a moment before it says so
		state := standing.GetState()
		if state == connectivity.Ready {
			break
		}
		if !standing.WaitForStateChange(ctx, state) {
			t.Fatalf("it answered, and is %v", state)
		}
	}
	now = now.Add(forgotten)
	conn(asked)
	now = now.Add(time.Second)
	conn("127.0.0.1:3") // one more comes
	if conn(asked) != b || conn(server) != stands {
		t.Error("a connection that was asked for, or stands, was closed")
	}
	if conn(gone) == a {
		t.Error("the connection to an address that is gone was kept")
	}
	d.Close()
	if _, err := d.Conn(gone); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("after Close: %v", err)
	}
	stop(nil)
}
