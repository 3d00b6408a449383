package gateway

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/antipode-im/antipode/im"
)

// hubShards is a power of two. Pushes of many goroutines look up conns at once; logins are rare beside them.
const hubShards = 64

// hub knows every session, by the conns that routes name and by its id.
type hub struct {
	shards [hubShards]hubShard
	ids    [hubShards]idShard
	count  atomic.Int64
}

type hubShard struct {
	mu    sync.RWMutex
	conns map[uint64]*session
}

type idShard struct {
	mu       sync.Mutex
	sessions map[sessionID]*session
}

func newHub() *hub {
	h := &hub{}
	for i := range hubShards {
		h.shards[i].conns = map[uint64]*session{}
		h.ids[i].sessions = map[sessionID]*session{}
	}
	return h
}

func (h *hub) id(id sessionID) *idShard { return &h.ids[id[0]%hubShards] } // ids are random

// byConn finds the session that a route's conn means.
func (h *hub) byConn(no uint64) *session {
	shard := &h.shards[no%hubShards]
	shard.mu.RLock()
	defer shard.mu.RUnlock()
	return shard.conns[no]
}

// byID finds the session that a resume names.
func (h *hub) byID(id sessionID) *session {
	shard := h.id(id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.sessions[id]
}

// add makes a new session reachable.
func (h *hub) add(s *session) {
	h.mapConn(s.connNo, s)
	shard := h.id(s.id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if _, known := shard.sessions[s.id]; !known {
		h.count.Add(1)
	}
	shard.sessions[s.id] = s
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
	s.conn, s.unacked, s.bytes, s.passing = nil, nil, 0, nil
	s.endBy(time.Time{})
	s.mu.Unlock()

	h.remove(s)
	return c, release, true
}

// remove makes a session that has ended unreachable.
func (h *hub) remove(s *session) {
	h.unmapConn(s.connNo) // no longer changes
	h.unmapConn(s.previous)
	shard := h.id(s.id)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.sessions[s.id] == s {
		delete(shard.sessions, s.id)
		h.count.Add(-1)
	}
}

// all lists the sessions, those included that were given up and whose pushes are passed on.
func (h *hub) all() []*session {
	list := make([]*session, 0, h.count.Load())
	for i := range h.ids {
		shard := &h.ids[i]
		shard.mu.Lock()
		for _, s := range shard.sessions {
			list = append(list, s)
		}
		shard.mu.Unlock()
	}
	return list
}

// size is the number of sessions.
func (h *hub) size() int { return int(h.count.Load()) }

// expired tells whether a session's resume window has passed.
func expired(now time.Time) func(*session) bool {
	return func(s *session) bool { return s.conn == nil && !s.deadline.IsZero() && !now.Before(s.deadline) }
}
