// Package faultnet is a TCP proxy that behaves like a bad network: it delays, stalls, cuts and resets, each direction by
// itself, and changes at runtime. `antipode dev` puts one between regions; tests put one anywhere.
//
// A delay holds bytes back without limiting throughput: what arrives at t leaves at t + delay, up to a buffer of 64 MiB a
// direction and connection. It stands in for netem where the kernel has none, at the level of connections, not packets:
// TCP's own slow start and loss recovery across the distance are not simulated.
//
// A Network is what one device is behind: it takes every connection that the device makes through proxies which follow one
// Profile, such as 2G, a link that flaps, or a NAT that forgets.
package faultnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Direction is one of the two ways through a proxy.
type Direction int

// The directions: Up from the side that connects to the target, Down back.
const (
	Up Direction = iota
	Down
)

// String names the direction.
func (d Direction) String() string {
	if d == Up {
		return "up"
	}
	return "down"
}

// State is what a direction does with bytes, beside delaying them.
type State int

// The states.
const (
	Open    State = iota // bytes pass
	Stalled              // bytes are held and pass when the direction opens again: a network that loses packets for a while
	Cut                  // bytes are lost: connections that lose some are reset when the direction opens again
)

// String names the state.
func (s State) String() string {
	switch s {
	case Stalled:
		return "stalled"
	case Cut:
		return "cut"
	default:
		return "open"
	}
}

// Fault is how one direction behaves now.
type Fault struct {
	State  State
	Delay  time.Duration // one way
	Rate   int           // bytes a second, shared by all connections; 0: no limit
	Buffer int           // bytes of each connection that may wait here, beside what the kernel holds; its sender is held back by more. 0: 64 MiB
}

// Stats counts since the proxy began.
type Stats struct {
	Conns    int       // open now
	Accepted uint64    // connections taken
	Stranded uint64    // of those, how many went dead in silence
	Ended    uint64    // of those, how many were reset because of an upgrade
	Bytes    [2]uint64 // passed, by Direction
	Lost     [2]uint64 // cut away, or sent on a stranded connection, by Direction
}

const (
	chunkBytes   = 64 << 10
	segmentBytes = 1448 // what a direction with a rate sends at once
	bufferBytes  = 64 << 20
	dialTimeout  = 5 * time.Second
)

// Proxy forwards connections from its address to a target.
type Proxy struct {
	ln     net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	accepted, stranded, ended atomic.Uint64
	bytes, lost               [2]atomic.Uint64
	forgets, ends             atomic.Int64 // ns; 0: never

	mu      sync.Mutex
	free    [2]time.Time // when the next byte may leave a direction that has a rate
	target  string
	faults  [2]Fault
	changed chan struct{} // closed at the next change of faults
	conns   map[*conn]struct{}
}

// Listen opens a proxy on addr ("127.0.0.1:0" picks a port) to a target. It runs until Close or Kill.
func Listen(addr, target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("faultnet: %w", err)
	}
	p := &Proxy{ln: ln, target: target, changed: make(chan struct{}), conns: map[*conn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// SetTarget points new connections elsewhere; those that are open stay.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Set changes one direction. A direction that was cut and no longer is resets the connections that lost bytes in it.
func (p *Proxy) Set(d Direction, f Fault) { p.change(func(faults *[2]Fault) { faults[d] = f }) }

// Fault tells how a direction behaves now.
func (p *Proxy) Fault(d Direction) Fault {
	f, _ := p.fault(d)
	return f
}

// Delay sets the one-way delay of both directions. Bytes under way keep the delay they began with.
func (p *Proxy) Delay(d time.Duration) {
	p.change(func(faults *[2]Fault) { faults[Up].Delay, faults[Down].Delay = d, d })
}

// Cut loses all bytes of the given directions (none given: both) until Heal. Connections stay open and silent, and new
// ones are taken but lead nowhere, as behind a network that lost its route.
func (p *Proxy) Cut(ds ...Direction) { p.state(Cut, ds) }

// Stall holds all bytes of the given directions (none given: both) until Heal.
func (p *Proxy) Stall(ds ...Direction) { p.state(Stalled, ds) }

// Heal opens both directions. Connections that lost bytes are reset; what was stalled passes. Delays stay.
func (p *Proxy) Heal() { p.state(Open, nil) }

// Strand makes every open connection dead: from now on what either end sends is lost, its end of the stream and resets too,
// and neither end is told. New connections work. It is what a change of the device's address does.
func (p *Proxy) Strand() {
	for _, c := range p.open() {
		p.strand(c)
	}
}

// Forget strands connections on which nothing was sent either way for so long, as a NAT does that forgets them; 0 strands
// none. What TCP sends by itself, such as its keepalive, is not seen here and does not count.
func (p *Proxy) Forget(after time.Duration) { p.forgets.Store(int64(after)) }

// EndUpgraded resets connections so long after an HTTP upgrade was asked for on them, as proxies do that know no WebSockets; 0:
// none, those that wait for their end included.
func (p *Proxy) EndUpgraded(after time.Duration) { p.ends.Store(int64(after)) }

// Reset drops every open connection at once, both ends seeing a reset. New ones are taken.
func (p *Proxy) Reset() {
	for _, c := range p.open() {
		c.reset()
	}
}

// Kill stops the proxy like a crashed machine: no more connections, every open one reset. It does not wait.
func (p *Proxy) Kill() {
	p.cancel()
	p.ln.Close()
	p.Reset()
}

// Close stops the proxy and waits until nothing of it runs.
func (p *Proxy) Close() error {
	p.Kill()
	p.wg.Wait()
	return nil
}

// Stats counts connections and bytes.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	n := len(p.conns)
	p.mu.Unlock()
	s := Stats{Conns: n, Accepted: p.accepted.Load(), Stranded: p.stranded.Load(), Ended: p.ended.Load()}
	for d := range 2 {
		s.Bytes[d], s.Lost[d] = p.bytes[d].Load(), p.lost[d].Load()
	}
	return s
}

func (p *Proxy) state(s State, ds []Direction) {
	p.change(func(faults *[2]Fault) {
		for _, d := range []Direction{Up, Down} {
			if len(ds) == 0 || slices.Contains(ds, d) {
				faults[d].State = s
			}
		}
	})
}

func (p *Proxy) change(f func(*[2]Fault)) {
	p.mu.Lock()
	before := p.faults
	f(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
	var broken []*conn
	for c := range p.conns {
		for d := range 2 {
			if before[d].State == Cut && p.faults[d].State != Cut && c.torn[d].Load() {
				broken = append(broken, c)
				break
			}
		}
	}
	p.mu.Unlock()
	for _, c := range broken {
		c.reset()
	}
}

// fault returns a direction's behaviour and a channel that closes when it may have changed.
func (p *Proxy) fault(d Direction) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[d], p.changed
}

func (p *Proxy) open() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*conn, 0, len(p.conns))
	for c := range p.conns {
		all = append(all, c)
	}
	return all
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: take the next one when there are some
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		p.accepted.Add(1)
		p.wg.Go(func() { p.serve(client) })
	}
}

// passes waits until both directions pass, so that a connection is not made across a cut. It reports whether the proxy
// still runs, and resets of the connection end the wait.
func (p *Proxy) passes(c *conn) bool {
	for {
		p.mu.Lock()
		open, changed := p.faults[Up].State == Open && p.faults[Down].State == Open, p.changed
		p.mu.Unlock()
		if open {
			return true
		}
		select {
		case <-changed:
		case <-c.gone:
			return false
		case <-c.done:
			return false
		}
	}
}
