package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// A hot restart moves everything from this process (the predecessor) to the next one (the successor):
//
//	successor                                predecessor
//	   │ ── hello {version, gateway} ─────────▶ │
//	   │ ◀──────────── offer {epoch} + listener │
//	   │ attaches to the routers as the same    │  from here on routers push there; its Push waits
//	   │ ── begin ────────────────────────────▶ │  accepts, reads and writes no more; calls under way end
//	   │ ◀─────── moved {sessions, conns} + fds │  …
//	   │ ── taken {n} ────────────────────────▶ │
//	   │ ◀─────────────────────────────── yours │  the point of no return: until then it goes on as before
//	   │ reads, writes, accepts                 │
//	   │ ◀── passedOn {pushes} ──────────────── │  what routers had sent to it already, for handoffGrace
//
// Bytes of clients wait in the kernel meanwhile: none sees more than a pause.
const (
	handoffVersion = 1
	// handoffGrace is how long pushes that routers sent to the predecessor are passed on.
	handoffGrace = 2 * time.Second
	// handoffCalls is how long calls under way may take to end; their clients send again what had no answer by then.
	handoffCalls = 2 * time.Second
	// handoffTime bounds the whole of it.
	handoffTime = 30 * time.Second
	// connNoGap lies between the conns that either process numbers.
	connNoGap = 1 << 20
)

// Begun is closed when this process serves: at once, unless there is another one to take over from, which serves until it
// has handed everything over.
func (g *Gateway) Begun() <-chan struct{} { return g.begun }

// Over is closed when another process has taken over.
func (g *Gateway) Over() <-chan struct{} { return g.successor.over }

// GaveOver tells whether another process has taken over. It waits for one that is just doing so.
func (g *Gateway) GaveOver() bool { return g.successor.has() }

// ErrTakenOver is what Run returns when another process serves in this one's place.
var ErrTakenOver = errors.New("gateway: another process has taken over")

// passedOn is what a router sent to the wrong one of two processes.
type passedOn struct {
	Pushes []im.Push
	Kick   *im.Kick
}

// successor is the process that takes over, once it has.
type successor struct {
	moving sync.RWMutex // held for writing while sessions move: what routers send waits
	send   func(*passedOn)
	over   chan struct{} // closed when it has
}

// begin returns how to pass on what a router sent; nil: it is for this process, and end is to be called.
func (s *successor) begin() func(fill func(*passedOn)) {
	s.moving.RLock()
	send := s.send
	if send == nil {
		return nil
	}
	s.moving.RUnlock()
	return func(fill func(*passedOn)) {
		var m passedOn
		fill(&m)
		send(&m)
	}
}

func (s *successor) end() { s.moving.RUnlock() }

// has tells whether everything was moved.
func (s *successor) has() bool {
	s.moving.RLock()
	defer s.moving.RUnlock()
	return s.send != nil
}

// linger is the end of a process that was taken over: what is under way over HTTP ends, what routers send is passed on.
func (g *Gateway) linger(ctx context.Context, server *http.Server) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoffGrace)
	defer cancel()
	_ = server.Shutdown(bounded) // what is left is cut
	select {
	case <-g.claims.settled():
	case <-bounded.Done():
	}
	<-bounded.Done()
}
