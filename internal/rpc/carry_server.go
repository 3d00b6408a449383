package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// carried is a method that can be called on a carrier's stream.
type carried struct {
	impl   any
	handle grpc.MethodHandler
}

// callsServer serves carriers: it runs each call as gRPC would, with the stream's peer and the call's own deadline.
type callsServer struct {
	antipodev1.UnimplementedCallsServer
	methods     map[string]carried // complete before the server runs
	interceptor grpc.UnaryServerInterceptor
	stopping    <-chan struct{}
}

func (s *callsServer) add(desc *grpc.ServiceDesc, impl any) {
	for i := range desc.Methods {
		m := &desc.Methods[i]
		s.methods["/"+desc.ServiceName+"/"+m.MethodName] = carried{impl, m.Handler}
	}
}

// carrying is one stream of a carrier.
type carrying struct {
	s      *callsServer
	stream antipodev1.Calls_CarryServer
	work   chan *antipodev1.CarriedCall // to workers that are free
	wake   chan struct{}
	calls  sync.WaitGroup

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
	done    []*antipodev1.CarriedAnswer
}

// workerIdle is how long a goroutine that has run a call waits for the next: its stack has grown already.
const workerIdle = 5 * time.Second

// Carry serves a stream until its client closes it or the server stops; then calls under way are finished first.
func (s *callsServer) Carry(stream antipodev1.Calls_CarryServer) error {
	c := &carrying{
		s: s, stream: stream, work: make(chan *antipodev1.CarriedCall), wake: make(chan struct{}, 1),
		running: map[uint64]context.CancelFunc{},
	}
	ctx, end := context.WithCancel(stream.Context())
	defer end()
	read := make(chan error, 1)
	go func() { read <- c.read(ctx) }()
	finished := make(chan struct{})
	written := make(chan error, 1)
	go func() { written <- c.write(ctx, finished) }()
	var err error
	select {
	case err = <-read:
	case <-s.stopping:
	case err = <-written:
		end()
		written <- err
	}
	c.mu.Lock()
	c.running = nil // no more are begun
	c.mu.Unlock()
	c.calls.Wait()
	close(finished)
	if e := <-written; err == nil || errors.Is(err, io.EOF) {
		err = e
	}
	return err
}

func (c *carrying) read(ctx context.Context) error {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			return err
		}
		for _, id := range m.Cancelled {
			c.mu.Lock()
			if cancel := c.running[id]; cancel != nil {
				cancel()
			}
			c.mu.Unlock()
		}
		for _, call := range m.Calls {
			select {
			case c.work <- call:
			default:
				go c.worker(ctx, call)
			}
		}
	}
}

// worker runs a call, and then others that come while it is free.
func (c *carrying) worker(ctx context.Context, call *antipodev1.CarriedCall) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		c.run(ctx, call)
		idle.Reset(workerIdle)
		select {
		case call = <-c.work:
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *carrying) run(ctx context.Context, call *antipodev1.CarriedCall) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(call.TimeoutMs)*time.Millisecond)
	defer cancel()
	answer := &antipodev1.CarriedAnswer{Id: call.Id}
	c.mu.Lock()
	begun := false
	switch {
	case c.running == nil:
		answer.Status = statusBytes(status.Error(codes.Unavailable, "stopping"))
	case len(c.running) >= 2*maxCarriedCalls:
		answer.Status = statusBytes(status.Error(codes.ResourceExhausted, "too many calls are under way"))
	default:
		c.running[call.Id] = cancel
		c.calls.Add(1)
		begun = true
	}
	c.mu.Unlock()
	if begun {
		c.s.serve(ctx, call, answer)
	}
	c.mu.Lock()
	delete(c.running, call.Id)
	c.done = append(c.done, answer)
	c.mu.Unlock()
	c.poke()
	if begun {
		c.calls.Done()
	}
}

// serve runs a method.
func (s *callsServer) serve(ctx context.Context, call *antipodev1.CarriedCall, answer *antipodev1.CarriedAnswer) {
	m, ok := s.methods[call.Method]
	if !ok {
		answer.Status = statusBytes(status.Errorf(codes.Unimplemented, "unknown method %s", call.Method))
		return
	}
	response, err := m.handle(m.impl, ctx, func(in any) error {
		if err := proto.Unmarshal(call.Body, in.(proto.Message)); err != nil {
			return status.Errorf(codes.Internal, "the request does not decode: %v", err)
		}
		return nil
	}, s.interceptor)
	if err == nil {
		answer.Body, err = proto.Marshal(response.(proto.Message))
	}
	if err == nil && len(answer.Body) > MaxMessage-maxCarriedBytes {
		answer.Body, err = nil, status.Errorf(codes.ResourceExhausted, "an answer of %d bytes is too large", len(answer.Body))
	}
	if err != nil {
		answer.Status = statusBytes(err)
	}
}

func statusBytes(err error) []byte {
	b, failed := proto.Marshal(status.Convert(err).Proto())
	if failed != nil {
		b, _ = proto.Marshal(status.New(codes.Internal, "the status of an answer cannot be encoded").Proto())
	}
	return b
}

// write sends what is done, as much in one message as its bound allows, until everything is finished.
func (c *carrying) write(ctx context.Context, finished <-chan struct{}) error {
	for last := false; ; {
		select {
		case <-c.wake:
		case <-finished:
			last, finished = true, nil
			c.poke()
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
		n := fitting(c.done, func(a *antipodev1.CarriedAnswer) int { return len(a.Body) + len(a.Status) })
		done := c.done[:n:n]
		if c.done = c.done[n:]; len(c.done) > 0 {
			c.poke()
		} else {
			c.done = nil
		}
		c.mu.Unlock()
		if len(done) == 0 {
			if last {
				return nil
			}
			continue
		}
		if err := c.stream.Send(&antipodev1.CarryResponse{Answers: done}); err != nil {
			return err
		}
		if last {
			c.poke()
		}
	}
}

func (c *carrying) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
