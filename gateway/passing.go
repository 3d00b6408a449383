package gateway

import (
	"time"

	"github.com/antipode-im/antipode/wire"
)

// passing is an ephemeral push that waits to be written: it has no number, so nothing is kept of it once it was written, and
// a socket that ends, or a client that is behind, never gets it.
type passing struct {
	push *wire.PreparedPush
	at   time.Time
}

const (
	// maxPassing bounds the ephemeral pushes that wait for one socket.
	maxPassing = 16
	// passingAge is how long one may wait: whom it tells of has stopped by then, or says it again.
	passingAge = 5 * time.Second
)

// pass keeps an ephemeral push for the session's socket, in place of an earlier one that it replaces. False: it was dropped,
// or an older one for it, because the socket takes too little. Without a socket it is for nobody.
func (s *session) pass(p *wire.PreparedPush, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.ended != "" {
		return true
	}
	for i := range s.passing {
		if p.Replaces(s.passing[i].push) {
			s.passing[i].push, s.passing[i].at = p, now
			return true
		}
	}
	if s.behind > s.conn.sent { // it has more to catch up on than this
		return false
	}
	room := len(s.passing) < maxPassing
	if !room {
		s.passing = append(s.passing[:0], s.passing[1:]...)
	}
	s.passing = append(s.passing, passing{p, now})
	s.conn.poke()
	return room
}

// passed returns the ephemeral pushes that a conn has to be sent, once it was sent all others.
func (s *session) passed(c *conn, now time.Time) []passing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != c || c.sent < s.number || len(s.passing) == 0 {
		return nil
	}
	all := s.passing
	s.passing = nil
	fresh := all[:0]
	for _, p := range all {
		if now.Sub(p.at) <= passingAge {
			fresh = append(fresh, p)
		}
	}
	return fresh
}
