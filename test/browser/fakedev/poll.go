package fakedev

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// poll is a long poll: a conn made of requests.
type poll struct {
	id      string
	conn    *conn
	session *session
	wake    chan struct{} // capacity 1

	mu     sync.Mutex
	out    [][]byte
	end    im.Code // why it is over
	held   uint32  // number of the last request that held
	answer []byte  // to it
	sent   uint32  // number of the last that did not
}

func (p *poll) send(frame []byte) {
	p.mu.Lock()
	p.out = append(p.out, frame)
	p.mu.Unlock()
	p.awake()
}

func (p *poll) close(code im.Code) {
	p.mu.Lock()
	p.end = code
	p.mu.Unlock()
	p.awake()
}

// cut is what a request learns of a conn that is not known any more. The caller holds World.mu.
func (p *poll) cut() {
	p.close(im.CodeIdle)
	p.session.lost(p.conn)
}

func (p *poll) awake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (g *gateway) servePoll(w http.ResponseWriter, r *http.Request) {
	codec, err := wire.NewCodec(wire.SubprotocolJSON)
	if err != nil {
		writeError(w, err)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 256<<10))
	if err != nil {
		return
	}
	q, err := codec.DecodePoll(body)
	if err != nil {
		writeError(w, err)
		return
	}
	g.world.mu.Lock()
	blocked, p := g.world.noPolls, g.polls[q.Conn]
	g.world.mu.Unlock()
	if blocked {
		http.Error(w, "no long poll gets through here", http.StatusBadGateway)
		return
	}
	if q.Conn == "" {
		p = &poll{id: randomHex(8), wake: make(chan struct{}, 1)}
		p.conn = &conn{p, codec}
		g.open(p, q.Frames)
	}
	answer := codec.EncodePollAnswer(&wire.PollAnswer{})
	switch {
	case p == nil:
		answer = codec.EncodePollAnswer(&wire.PollAnswer{Close: im.CodeIdle.Spec().Close})
	case q.HoldMs > 0:
		answer = p.hold(r, &q)
	case p.next(q.Number):
		for _, b := range q.Frames {
			if f, err := codec.Decode(b); err == nil && !g.take(p.conn, p.session, f) {
				p.close(im.CodeUnavailable)
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // who left asks again
}

// open logs a poll in by its first frame.
func (g *gateway) open(p *poll, frames [][]byte) {
	var f *wire.Frame
	err := error(im.Errorf(im.CodeHelloExpected, "the first frame must be hello"))
	if len(frames) > 0 {
		f, err = p.conn.codec.Decode(frames[0])
	}
	if err == nil {
		p.session, err = g.hello(p.conn, f)
	}
	if err != nil {
		p.conn.end(err)
		return
	}
	g.world.mu.Lock()
	g.polls[p.id] = p
	g.world.mu.Unlock()
}

// next tells whether a request that does not hold is new.
func (p *poll) next(number uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := number == p.sent
	p.sent = number
	return !again
}

// hold waits until there is something to answer.
func (p *poll) hold(r *http.Request, q *wire.PollRequest) []byte {
	late := time.NewTimer(time.Duration(q.HoldMs) * time.Millisecond)
	defer late.Stop()
	for timeUp := false; ; {
		if answer := p.answerTo(q.Number, timeUp); answer != nil {
			p.awake() // a repeated request waits for the same
			return answer
		}
		select {
		case <-p.wake:
		case <-late.C:
			timeUp = true
		case <-r.Context().Done():
			return nil
		}
	}
}

// answerTo is the answer to a request that holds; nil: it has to wait.
func (p *poll) answerTo(number uint32, timeUp bool) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if number == p.held {
		return p.answer
	}
	if len(p.out) == 0 && p.end == "" && !timeUp {
		return nil
	}
	a := wire.PollAnswer{Conn: p.id, Frames: p.out}
	if p.end != "" {
		a.Close = p.end.Spec().Close
	}
	p.out, p.held, p.answer = nil, number, p.conn.codec.EncodePollAnswer(&a)
	return p.answer
}
