package gateway

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/antipode-im/antipode/im"
)

// tableShards is a power of two.
const tableShards = 64

// table knows every socket, also before its hello, and how many an address has.
type table struct {
	max, maxPerIP int
	seed          maphash.Seed
	reserved      atomic.Int64 // sockets, those being upgraded included
	size          atomic.Int64
	stopped       atomic.Bool // no conn is added any more
	conns         [tableShards]connShard
	ips           [tableShards]ipShard
}

type connShard struct {
	mu   sync.Mutex
	open map[*conn]struct{}
}

type ipShard struct {
	mu    sync.Mutex
	count map[netip.Addr]int
}

func newTable(max, maxPerIP int) *table {
	t := &table{max: max, maxPerIP: maxPerIP, seed: maphash.MakeSeed()}
	for i := range tableShards {
		t.conns[i].open = map[*conn]struct{}{}
		t.ips[i].count = map[netip.Addr]int{}
	}
	return t
}

func (t *table) ip(a netip.Addr) *ipShard {
	return &t.ips[maphash.Comparable(t.seed, a)%tableShards]
}

// reserve counts a socket of an address in, ahead of the upgrade.
func (t *table) reserve(ip netip.Addr) error {
	if t.reserved.Add(1) > int64(t.max) {
		t.reserved.Add(-1)
		return im.Errorf(im.CodeOverloaded, "this gateway is full")
	}
	s := t.ip(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.count[ip]; n >= t.maxPerIP {
		t.reserved.Add(-1)
		return im.Errorf(im.CodeTooManyRequests, "your address has %d connections; at most %d are allowed", n, t.maxPerIP)
	}
	s.count[ip]++
	return nil
}

// release counts a socket out.
func (t *table) release(ip netip.Addr) {
	t.reserved.Add(-1)
	s := t.ip(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count[ip]--; s.count[ip] <= 0 {
		delete(s.count, ip)
	}
}

// count notes sockets that another process had counted in.
func (t *table) count(ip netip.Addr) {
	t.reserved.Add(1)
	s := t.ip(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[ip]++
}

func (t *table) shard(c *conn) *connShard {
	return &t.conns[maphash.Comparable(t.seed, c)%tableShards]
}

// add makes a conn known; false: the table is stopped.
func (t *table) add(c *conn) bool {
	s := t.shard(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.stopped.Load() {
		return false
	}
	s.open[c] = struct{}{}
	t.size.Add(1)
	return true
}

// remove forgets a conn; false: it was not known.
func (t *table) remove(c *conn) bool {
	s := t.shard(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[c]; !ok {
		return false
	}
	delete(s.open, c)
	t.size.Add(-1)
	return true
}

// stop keeps further conns out and returns those there are.
func (t *table) stop() []*conn {
	t.stopped.Store(true)
	return t.all()
}

func (t *table) all() []*conn {
	list := make([]*conn, 0, t.size.Load())
	for i := range t.conns {
		s := &t.conns[i]
		s.mu.Lock()
		for c := range s.open {
			list = append(list, c)
		}
		s.mu.Unlock()
	}
	return list
}
