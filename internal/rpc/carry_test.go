package rpc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// echo answers a call with its own body, and beside it with the gRPC method that brought it: the carrier's or its own.
func echo(ctx context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
	method, _ := grpc.Method(ctx)
	return &antipodev1.BackendCallResponse{Body: append([]byte(method+" "), r.Body...)}, nil
}

const (
	byCarrier = antipodev1.Calls_Carry_FullMethodName
	byItself  = antipodev1.Backend_Call_FullMethodName
)

// wantEcho calls and expects the body back by a way.
func wantEcho(ctx context.Context, client antipodev1.BackendClient, body []byte, way string) error {
	r, err := client.Call(ctx, &antipodev1.BackendCallRequest{Body: body})
	if err != nil {
		return err
	}
	if want := append([]byte(way+" "), body...); !bytes.Equal(r.Body, want) {
		return fmt.Errorf("answer %.60q of %d bytes; want %.60q of %d", r.Body, len(r.Body), want, len(want))
	}
	return nil
}

// TestCarriedCallsKeepTheirAnswers: many at once on one connection, of very different sizes and in any order.
func TestCarriedCallsKeepTheirAnswers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	addr, stop := serve(t, ServerConfig{}, &raw{call: echo})
	conn := dial(t, addr, DialConfig{})
	client := antipodev1.NewBackendClient(conn)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			for j := range 10 {
				body := bytes.Repeat(fmt.Appendf(nil, "%d.%d ", i, j), 1+(i*j)%5000)
				if len(body) > maxCarried/2 {
					body = body[:maxCarried/2]
				}
				if err := wantEcho(t.Context(), client, body, byCarrier); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	conn.Close()
	stop(nil)
}

// TestNotCarried: what is large, what is traced, and what a server does not take that way, goes by itself.
func TestNotCarried(t *testing.T) {
	addr, _ := serve(t, ServerConfig{}, &raw{call: echo})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{}))
	sampled := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
	}))
	for name, err := range map[string]error{
		"small":  wantEcho(t.Context(), client, []byte("small"), byCarrier),
		"large":  wantEcho(t.Context(), client, make([]byte, maxCarried+1), byItself),
		"traced": wantEcho(sampled, client, []byte("traced"), byItself),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	older := grpc.NewServer()
	antipodev1.RegisterBackendServer(older, &raw{call: echo})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go older.Serve(l)
	t.Cleanup(older.Stop)
	client = antipodev1.NewBackendClient(dial(t, l.Addr().String(), DialConfig{}))
	for range 3 {
		if err := wantEcho(t.Context(), client, []byte("to an older server"), byItself); err != nil {
			t.Error(err)
		}
	}
}

// TestCarriedDeadline: the server runs a call under its caller's deadline, and learns when the caller gives up before.
func TestCarriedDeadline(t *testing.T) {
	var left atomic.Int64
	entered, gaveUp := make(chan struct{}, 1), make(chan error, 1)
	addr, _ := serve(t, ServerConfig{}, &raw{call: func(ctx context.Context, _ *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		deadline, _ := ctx.Deadline()
		left.Store(int64(time.Until(deadline)))
		entered <- struct{}{}
		<-ctx.Done()
		gaveUp <- ctx.Err()
		return nil, ctx.Err()
	}})
	client := antipodev1.NewBackendClient(dial(t, addr, DialConfig{}))

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	answered := make(chan error, 1)
	go func() {
		_, err := client.Call(ctx, &antipodev1.BackendCallRequest{})
		answered <- err
	}()
	<-entered
	if d := time.Duration(left.Load()); d <= 30*time.Second || d > time.Minute {
		t.Errorf("the server had %v of a minute", d)
	}
	cancel()
	if err := <-gaveUp; err != context.Canceled {
		t.Errorf("the call ended by %v when its caller gave up", err)
	}
	if err := <-answered; err == nil {
		t.Error("a caller that gave up got an answer")
	}

	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Call(ctx, &antipodev1.BackendCallRequest{}); err == nil {
		t.Error("a call past its deadline got an answer")
	}
	<-entered
	<-gaveUp
}

// TestCarriedBadRequests: an unknown method, a body that does not decode and an answer that is too large fail by
// themselves; the stream goes on for the others.
func TestCarriedBadRequests(t *testing.T) {
	addr, _ := serve(t, ServerConfig{}, &raw{call: func(_ context.Context, r *antipodev1.BackendCallRequest) (*antipodev1.BackendCallResponse, error) {
		if r.Method == "huge" {
			return &antipodev1.BackendCallResponse{Body: make([]byte, MaxMessage)}, nil
		}
		return &antipodev1.BackendCallResponse{Body: []byte("fine")}, nil
	}})
	stream, err := antipodev1.NewCallsClient(dial(t, addr, DialConfig{})).Carry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method string, body []byte) codes.Code {
		t.Helper()
		call := &antipodev1.CarriedCall{Id: 7, Method: method, TimeoutMs: 10_000, Body: body}
		if err := stream.Send(&antipodev1.CarryRequest{Calls: []*antipodev1.CarriedCall{call}}); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil || len(m.Answers) != 1 || m.Answers[0].Id != 7 {
			t.Fatalf("%s: %v, %v", method, m, err)
		}
		return status.Code(decodeAnswer(m.Answers[0], &antipodev1.BackendCallResponse{}))
	}
	huge, err := proto.Marshal(&antipodev1.BackendCallRequest{Method: "huge"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method string
		body   []byte
		want   codes.Code
	}{
		{"/antipode.v1.Backend/Nothing", nil, codes.Unimplemented},
		{byItself, []byte{0xff}, codes.Internal},
		{byItself, huge, codes.ResourceExhausted},
		{byItself, nil, codes.OK},
	} {
		if got := ask(c.method, c.body); got != c.want {
			t.Errorf("%s %v: %v, want %v", c.method, c.body, got, c.want)
		}
	}
}

// TestCarrierComesBack: calls fail while the server is gone and go on, carried, when it is there again.
func TestCarrierComesBack(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	addr, stop := serve(t, ServerConfig{}, &raw{call: echo})
	conn := dial(t, addr, DialConfig{Timeout: time.Second, Open: 10 * time.Millisecond})
	client := antipodev1.NewBackendClient(conn)
	if err := wantEcho(t.Context(), client, []byte("one"), byCarrier); err != nil {
		t.Fatal(err)
	}
	stop(im.ErrKilled)
	if err := wantEcho(t.Context(), client, []byte("two"), byCarrier); im.CodeOf(err) != im.CodeUnavailable {
		t.Errorf("a call while the server is gone: %v", err)
	}
	_, stop = serve(t, ServerConfig{Addr: addr}, &raw{call: echo})
	until(t, func() bool { return wantEcho(t.Context(), client, []byte("three"), byCarrier) == nil })
	conn.Close()
	stop(nil)
}

// TestCarrierAsksAgain: a server that did not know carriers is asked again after a while, for it may be upgraded.
func TestCarrierAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &carrier{unknown: time.Now()}
		asked := func() bool {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := c.open(ctx, closedConn(t))
			return err != errNotCarried
		}
		if asked() {
			t.Error("asked again at once")
		}
		time.Sleep(carryAgain)
		if !asked() {
			t.Error("not asked again after a while")
		}
	})
}

func closedConn(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := Dial("127.0.0.1:1", DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	return c
}

func TestFitting(t *testing.T) {
	size := func(n int) int { return n }
	for _, c := range []struct {
		waiting []int
		want    int
	}{
		{nil, 0},
		{[]int{1, 2, 3}, 3},
		{[]int{maxCarriedBytes + 1, 1}, 1}, // the first goes whatever its size
		{[]int{maxCarriedBytes - 1, 1, 1}, 2},
		{[]int{1, maxCarriedBytes}, 1},
	} {
		if got := fitting(c.waiting, size); got != c.want {
			t.Errorf("%v: %d, want %d", c.waiting, got, c.want)
		}
	}
}
