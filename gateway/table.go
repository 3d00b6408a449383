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
	reserved      atomic.Int64 // conns, and sockets that are being upgraded to one
	entrants      atomic.Int64 // accepted sockets that are no conns: those that have not said what they want yet, and HTTP's
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
	count map[netip.Addr]perIP
}

// perIP is what an address has.
type perIP struct{ conns, entrants int }

func newTable(max, maxPerIP int) *table {
	t := &table{max: max, maxPerIP: maxPerIP, seed: maphash.MakeSeed()}
	for i := range tableShards {
		t.conns[i].open = map[*conn]struct{}{}
		t.ips[i].count = map[netip.Addr]perIP{}
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
	n := s.count[ip]
	if n.conns >= t.maxPerIP {
		t.reserved.Add(-1)
		return im.Errorf(im.CodeTooManyRequests, "your address has %d connections; at most %d are allowed", n.conns, t.maxPerIP)
	}
	n.conns++
	s.count[ip] = n
	return nil
}

// release counts a socket out.
func (t *table) release(ip netip.Addr) {
	t.reserved.Add(-1)
	t.ip(ip).change(ip, perIP{conns: -1})
}

func (s *ipShard) change(ip netip.Addr, by perIP) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count[ip]
	n.conns, n.entrants = n.conns+by.conns, n.entrants+by.entrants
	if n.conns <= 0 && n.entrants <= 0 {
		delete(s.count, ip)
		return
	}
	s.count[ip] = n
}

// spare is how many sockets beyond a limit are let in, to be told by HTTP that it is reached, and for those who ask whether
// the gateway lives.
func spare(limit int) int { return 16 + limit/8 }

// enter counts an accepted socket in; false: it has to go, unheard. What an address has is not counted for one that is not
// valid.
func (t *table) enter(ip netip.Addr) bool {
	if t.entrants.Add(1)+t.reserved.Load() > int64(t.max+spare(t.max)) || !t.enterFrom(ip) {
		t.entrants.Add(-1)
		return false
	}
	return true
}

// enterFrom counts a socket that is counted in already for an address, too.
func (t *table) enterFrom(ip netip.Addr) bool {
	if !ip.IsValid() {
		return true
	}
	s := t.ip(ip)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count[ip]
	if n.conns+n.entrants >= t.maxPerIP+spare(t.maxPerIP) {
		return false
	}
	n.entrants++
	s.count[ip] = n
	return true
}

// leave counts it out: it has closed, or is a conn now.
func (t *table) leave(ip netip.Addr) {
	t.entrants.Add(-1)
	if ip.IsValid() {
		t.ip(ip).change(ip, perIP{entrants: -1})
	}
}

// count notes sockets that another process had counted in.
func (t *table) count(ip netip.Addr) {
	t.reserved.Add(1)
	t.ip(ip).change(ip, perIP{conns: 1})
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
