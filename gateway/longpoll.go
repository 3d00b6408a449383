package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// longPoll is the socket of a conn whose client has no WebSocket: what it sends comes in the bodies of requests, what it is
// sent goes out in an answer that waits for it. To the conn it is a socket that takes bytes while a request is held, and
// none between two of them, so that sessions, queues and limits are those of any other conn.
//
//	client ── {number, hold_ms, frames} ──▶ feed ──▶ conn.message
//	   ▲                                               │
//	   └── {frames, close} ◀── hold ◀── Write ◀── flusher
//
// A request whose answer is lost is repeated under its number. Its frames are not handled twice, and the answer that was
// given is kept until the next number shows that it arrived.
type longPoll struct {
	c  *conn
	id string

	feeding sync.Mutex // frames come one at a time, as from a poller's loop
	over    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	held    uint32 // number of the last request that holds
	sent    uint32 // number of the last that does not
	turn    *hold  // the last request that came under held: the answer is for it
	waits   bool   // it waits for bytes
	kept    []byte // the answer to held; nil: none was given, or there was nothing in it
	pending []byte // WebSocket frames for the next answer
	short   bool   // a Write was not taken
	resumed chan struct{}
}

// hold is a request that waits.
type hold struct {
	ready chan struct{} // capacity 1: there is something to answer
	off   chan struct{} // closed when another request took its place
}

// pollBytes is how many bytes an answer gathers before a further write waits for the next. One write may be more: all that is
// queued, MaxSendBytes at most.
const pollBytes = 64 << 10

// Write implements poll.Socket. It takes all or nothing, so that what it took is whole frames.
func (p *longPoll) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended() {
		return 0, poll.ErrClosed
	}
	if !p.waits || len(p.pending) >= pollBytes {
		p.short = true
		return 0, nil
	}
	p.pending = append(p.pending, b...)
	select {
	case p.turn.ready <- struct{}{}:
	default:
	}
	return len(b), nil
}

// Pause implements poll.Socket.
func (p *longPoll) Pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed == nil {
		p.resumed = make(chan struct{})
	}
}

// Resume implements poll.Socket.
func (p *longPoll) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed != nil {
		close(p.resumed)
		p.resumed = nil
	}
}

// Close implements poll.Socket. What was taken before is still answered.
func (p *longPoll) Close() {
	p.once.Do(func() {
		close(p.over)
		p.c.g.polls.remove(p)
	})
}

func (p *longPoll) ended() bool {
	select {
	case <-p.over:
		return true
	default:
		return false
	}
}

// errRestarts ends polls for good when another process has taken over: the session is there.
var errRestarts = im.Errorf(im.CodeUnavailable, "this gateway restarts: reconnect")

// feed hands frames to the conn, one by one. It waits while a login is under way.
func (p *longPoll) feed(frames [][]byte) {
	p.feeding.Lock()
	defer p.feeding.Unlock()
	for _, f := range frames {
		p.mu.Lock()
		resumed := p.resumed
		p.mu.Unlock()
		if resumed != nil {
			select {
			case <-resumed:
			case <-p.over:
				return
			}
		}
		switch {
		case p.c.over.Load() || p.ended():
			return
		case p.c.g.successor.has():
			p.c.close(errRestarts)
			return
		case len(f) > p.c.g.cfg.MaxFrame:
			p.c.ends(im.Errorf(im.CodeFrameTooLarge, "the frame has more than %d bytes", p.c.g.cfg.MaxFrame))
			return
		}
		p.c.message(ws.Message{Op: ws.Opcode(p.c.codec.MessageType()), Payload: f})
	}
}

// came notes a request, which counts as a frame: it is life, and it costs.
func (p *longPoll) came() bool {
	p.feeding.Lock()
	defer p.feeding.Unlock()
	p.c.heard.Store(p.c.g.elapsed())
	return p.c.limit(nil)
}

var (
	errPollNumber = im.Errorf(im.CodeBadRequest, "the number is neither the next one nor the last one")
	errSuperseded = im.Errorf(im.CodeBadRequest, "another request of this number came: the answer is its")
)

// send takes the frames of a request that does not hold.
func (p *longPoll) send(q *wire.PollRequest) error {
	p.mu.Lock()
	again := q.Number == p.sent && q.Number > 0
	next := q.Number == p.sent+1
	if next {
		p.sent = q.Number
	}
	p.mu.Unlock()
	switch {
	case next:
		p.feed(q.Frames)
	case !again:
		return errPollNumber
	}
	return nil
}

// receive takes the frames of a request that holds, and returns its answer.
func (p *longPoll) receive(ctx context.Context, q *wire.PollRequest, most time.Duration) ([]byte, error) {
	h := &hold{ready: make(chan struct{}, 1), off: make(chan struct{})}
	p.mu.Lock()
	next := q.Number == p.held+1
	switch {
	case next:
		p.held, p.kept = q.Number, nil
	case q.Number != p.held || q.Number == 0:
		p.mu.Unlock()
		return nil, errPollNumber
	case p.kept != nil: // it was answered, and the answer was lost
		kept := p.kept
		p.mu.Unlock()
		return kept, nil
	}
	if p.turn != nil {
		close(p.turn.off)
	}
	p.turn, p.waits = h, false
	p.mu.Unlock()
	if next {
		p.feed(q.Frames)
	}
	if !p.await(ctx, h, min(time.Duration(q.HoldMs)*time.Millisecond, most)) {
		return nil, errSuperseded
	}
	return p.answer(ctx, h)
}

// await waits until there is something to answer, or time is up; false: another request took the place.
func (p *longPoll) await(ctx context.Context, h *hold, d time.Duration) bool {
	p.mu.Lock()
	if p.turn != h {
		p.mu.Unlock()
		return false
	}
	p.waits = true
	if len(p.pending) > 0 {
		h.ready <- struct{}{}
	}
	again := p.short
	p.short = false
	p.mu.Unlock()
	if again {
		p.c.Writable()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-h.ready:
	case <-t.C:
	case <-p.over:
	case <-ctx.Done():
	case <-h.off:
		return false
	}
	return true
}

// answer makes the answer of a request that waited. If its client has left, what there is stays for its repetition.
func (p *longPoll) answer(ctx context.Context, h *hold) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.turn != h {
		return nil, errSuperseded
	}
	p.turn, p.waits = nil, false
	if ctx.Err() != nil {
		return nil, errClientClosed
	}
	a := wire.PollAnswer{Conn: p.id}
	a.Frames, a.Close = unframe(p.pending)
	if a.Close == 0 && p.ended() && len(a.Frames) == 0 {
		a = p.c.g.noPoll(p.c.codec)
	}
	p.pending = nil
	b := p.c.codec.EncodePollAnswer(&a)
	if len(a.Frames) > 0 || a.Close > 0 {
		p.kept = b
	}
	return b, nil
}

// unframe takes the frames of the protocol, and the close code, out of the WebSocket frames of this gateway.
func unframe(b []byte) (frames [][]byte, status int) {
	for len(b) > 0 {
		op, payload, n := ws.ParseOwn(b)
		if n == 0 { // never: only whole frames are taken
			return frames, status
		}
		b = b[n:]
		switch op {
		case ws.Text, ws.Binary:
			frames = append(frames, payload)
		case ws.Close:
			status, _, _ = ws.ParseClose(payload) // this gateway wrote it
		}
	}
	return frames, status
}

// noPoll is the answer to a request of a conn that is not, or no longer, there: its client resumes the session.
func (g *Gateway) noPoll(codec *wire.Codec) wire.PollAnswer {
	e := im.Errorf(im.CodeIdle, "there is no such connection any more: resume")
	a := wire.PollAnswer{Close: e.Code.Spec().Close}
	if frame, err := codec.Encode(wire.FrameOf(wire.ErrorFrame(e))); err == nil {
		a.Frames = [][]byte{frame}
	}
	return a
}

// polls knows the conns by long poll.
type polls struct {
	max  int
	mu   sync.Mutex
	open map[string]*longPoll
}

var errPollsFull = errors.New("too many")

func newPolls(max int) *polls { return &polls{max: max, open: map[string]*longPoll{}} }

func (t *polls) add(p *longPoll) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= t.max {
		return errPollsFull
	}
	t.open[p.id] = p
	return nil
}

func (t *polls) remove(p *longPoll) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, p.id)
}

func (t *polls) get(id string) *longPoll {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[id]
}

func (t *polls) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}
