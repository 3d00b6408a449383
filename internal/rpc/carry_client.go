package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"
)

// Bounds of what goes on a carrier. A larger request goes as a call of its own, so that small ones do not wait behind it.
const (
	maxCarried      = 64 << 10    // one request, in bytes
	maxCarriedCalls = 4096        // under way on one stream
	maxCarriedBytes = 256 << 10   // one message with several, in bytes, from where on the next waits for the next message
	carryAgain      = time.Minute // after which a server that did not know carriers is asked again: it may have been upgraded
)

// errNotCarried means that a call has to go by itself.
var errNotCarried = errors.New("not carried")

// carrier sends the small unary calls of one connection on one stream, several in a message when several wait. It opens
// the stream with the first call, and again with the first after it broke; calls under way then fail as they would with
// their connection. A server that does not know it is called as ever.
type carrier struct {
	mu      sync.Mutex
	stream  *carrierStream
	opening chan struct{} // closed when the attempt under way is over
	unknown time.Time     // when the server was found not to offer it
}

// carrierStream is one stream.
type carrierStream struct {
	stream antipodev1.Calls_CarryClient
	end    context.CancelFunc
	wake   chan struct{}
	ended  chan struct{}

	mu      sync.Mutex
	last    uint64
	calls   map[uint64]chan *antipodev1.CarriedAnswer
	waiting []*antipodev1.CarriedCall // to be sent
	left    []uint64                  // calls whose callers gave up, to be told
	err     error                     // once ended
}

// call carries a call, or returns errNotCarried. The context has a deadline.
func (c *carrier) call(ctx context.Context, cc *grpc.ClientConn, method string, req, reply any) error {
	in, ok := req.(proto.Message)
	out, ok2 := reply.(proto.Message)
	if !ok || !ok2 || !strings.HasPrefix(method, "/antipode.") || trace.SpanContextFromContext(ctx).IsSampled() {
		return errNotCarried // traced calls have spans and headers of their own
	}
	if proto.Size(in) > maxCarried {
		return errNotCarried
	}
	body, err := proto.Marshal(in)
	if err != nil {
		return errNotCarried // gRPC says why
	}
	s, err := c.open(ctx, cc)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	id, answered, ok := s.send(method, body, time.Until(deadline))
	if !ok {
		return errNotCarried
	}
	select {
	case a := <-answered:
		return decodeAnswer(a, out)
	case <-ctx.Done():
		s.cancel(id)
		return status.FromContextError(ctx.Err()).Err()
	case <-s.ended:
		select {
		case a := <-answered:
			return decodeAnswer(a, out)
		default:
			return s.err
		}
	}
}

func decodeAnswer(a *antipodev1.CarriedAnswer, out proto.Message) error {
	if len(a.Status) > 0 {
		var s spb.Status
		if err := proto.Unmarshal(a.Status, &s); err != nil {
			return status.Errorf(codes.Internal, "the status of an answer does not decode: %v", err)
		}
		return status.FromProto(&s).Err()
	}
	if err := proto.Unmarshal(a.Body, out); err != nil {
		return status.Errorf(codes.Internal, "an answer does not decode: %v", err)
	}
	return nil
}

// open returns the stream, opening it if need be.
func (c *carrier) open(ctx context.Context, cc *grpc.ClientConn) (*carrierStream, error) {
	for {
		c.mu.Lock()
		if !c.unknown.IsZero() && time.Since(c.unknown) < carryAgain {
			c.mu.Unlock()
			return nil, errNotCarried
		}
		if s := c.stream; s != nil {
			select {
			case <-s.ended:
				c.stream = nil
			default:
				c.mu.Unlock()
				return s, nil
			}
		}
		opening := c.opening
		if opening == nil {
			opening = make(chan struct{})
			c.opening = opening
			c.mu.Unlock()
			s, err := c.begin(ctx, cc)
			c.mu.Lock()
			c.stream, c.opening = s, nil
			c.mu.Unlock()
			close(opening)
			return s, err
		}
		c.mu.Unlock()
		select {
		case <-opening:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// begin opens a stream. The caller's context bounds the opening only.
func (c *carrier) begin(ctx context.Context, cc *grpc.ClientConn) (*carrierStream, error) {
	streaming, end := context.WithCancel(context.Background())
	release := context.AfterFunc(ctx, end)
	stream, err := antipodev1.NewCallsClient(cc).Carry(streaming)
	if !release() && err == nil {
		err = status.FromContextError(ctx.Err()).Err()
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = status.FromContextError(ctx.Err()).Err()
		}
		return nil, err
	}
	s := &carrierStream{
		stream: stream, end: end, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		calls: map[uint64]chan *antipodev1.CarriedAnswer{},
	}
	go s.write()
	go func() {
		err := s.read()
		if im.CodeOf(err) == im.CodeUnknownMethod {
			c.mu.Lock()
			c.unknown = time.Now()
			c.mu.Unlock()
			err = errNotCarried
		}
		s.fail(err)
	}()
	return s, nil
}

// send queues a call. False: too many are under way.
func (s *carrierStream) send(method string, body []byte, timeout time.Duration) (id uint64, answered chan *antipodev1.CarriedAnswer, ok bool) {
	ms := min(max(timeout.Milliseconds(), 1), math.MaxUint32)
	answered = make(chan *antipodev1.CarriedAnswer, 1)
	s.mu.Lock()
	if len(s.calls) >= maxCarriedCalls {
		s.mu.Unlock()
		return 0, nil, false
	}
	s.last++
	id = s.last
	s.calls[id] = answered
	s.waiting = append(s.waiting, &antipodev1.CarriedCall{Id: id, Method: method, TimeoutMs: uint32(ms), Body: body})
	s.mu.Unlock()
	s.poke()
	return id, answered, true
}

// cancel tells the server that nobody waits any more.
func (s *carrierStream) cancel(id uint64) {
	s.mu.Lock()
	_, there := s.calls[id]
	delete(s.calls, id)
	if there {
		s.left = append(s.left, id)
	}
	s.mu.Unlock()
	if there {
		s.poke()
	}
}

func (s *carrierStream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends what waits, as much in one message as its bound allows.
func (s *carrierStream) write() {
	for {
		select {
		case <-s.wake:
		case <-s.ended:
			return
		}
		m := &antipodev1.CarryRequest{}
		s.mu.Lock()
		n := fitting(s.waiting, func(c *antipodev1.CarriedCall) int { return len(c.Body) })
		m.Calls, s.waiting = s.waiting[:n:n], s.waiting[n:]
		if len(s.waiting) > 0 {
			s.poke()
		} else {
			s.waiting = nil
		}
		m.Cancelled, s.left = s.left, nil
		s.mu.Unlock()
		if len(m.Calls)+len(m.Cancelled) == 0 {
			continue
		}
		if err := s.stream.Send(m); err != nil { // read says why
			s.end()
			return
		}
	}
}

// fitting is how many of what waits go in one message: at least one, unless nothing waits.
func fitting[T any](waiting []T, size func(T) int) int {
	total := 0
	for i, w := range waiting {
		if total += size(w); i > 0 && total > maxCarriedBytes {
			return i
		}
	}
	return len(waiting)
}

// read takes answers until the stream ends.
func (s *carrierStream) read() error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		for _, a := range m.Answers {
			if answered := s.calls[a.Id]; answered != nil {
				delete(s.calls, a.Id)
				answered <- a
			}
		}
		s.mu.Unlock()
	}
}

// fail ends the stream for everybody who waits.
func (s *carrierStream) fail(err error) {
	s.end()
	if err == nil {
		err = errors.New("ended")
	}
	if !errors.Is(err, errNotCarried) {
		err = status.Error(codes.Unavailable, fmt.Sprintf("the stream of calls broke: %v", err))
	}
	s.err = err
	close(s.ended)
}
