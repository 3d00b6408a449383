package gateway

import (
	"sync"
	"time"

	"github.com/antipode-im/antipode/im"
)

// hubShards is a power of two. Pushes of many goroutines look up conns at once; logins are rare beside them.
const hubShards = 64

// hub knows every session, by the conns that routes name and by its id.
type hub struct {
	shards [hubShards]hubShard

	mu       sync.Mutex
	sessions map[string]*session
}

type hubShard struct {
	mu    sync.RWMutex
	conns map[uint64]*session
}

func newHub() *hub {
	h := &hub{sessions: map[string]*session{}}
	for i := range h.shards {
		h.shards[i].conns = map[uint64]*session{}
	}
	return h
}

// byConn finds the session that a route's conn means.
func (h *hub) byConn(no uint64) *session {
	shard := &h.shards[no%hubShards]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.conns[no]
}

// byID finds the session that a resume names.
func (h *hub) byID(id string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// add makes a new session reachable.
func (h *hub) add(s *session) {
	h.mapConn(s.connNo, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[s.id] = s
}

func (h *hub) mapConn(no uint64, s *session) {
	shard := &h.shards[no%hubShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	shard.conns[no] = s
}

func (h *hub) unmapConn(no uint64) {
	if no == 0 {
		return
	}
	shard := &h.shards[no%hubShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	delete(shard.conns, no)
}

// end takes a session out, if match agrees, and returns its last conn and the release of its route. It happens once.
func (h *hub) end(s *session, why im.Code, match func(*session) bool) (c *conn, release im.Claim, ok bool) {
	s.mu.Lock()
	if s.ended != "" || match != nil && !match(s) {
		s.mu.Unlock()
		return nil, im.Claim{}, false
	}
	s.ended = why
	c, release = s.conn, s.claim()
	release.Release, release.Offline = true, false
	s.conn, s.unacked, s.bytes = nil, nil, 0
	s.mu.Unlock()

	h.unmapConn(s.connNo) // no longer changes: the session has ended
	h.unmapConn(s.previous)
	h.mu.Lock()
	delete(h.sessions, s.id)
	h.mu.Unlock()
	return c, release, true
}

// all lists the sessions.
func (h *hub) all() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		list = append(list, s)
	}
	return list
}

// size is the number of sessions.
func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.sessions)
}

// expired tells whether a session's resume window has passed.
func expired(now time.Time) func(*session) bool {
	return func(s *session) bool { return s.conn == nil && !s.deadline.IsZero() && !now.Before(s.deadline) }
}
