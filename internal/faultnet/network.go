package faultnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Network is what one device is behind. What it dials passes a proxy for each address, all of which follow one profile; a
// rate is that of each address by itself.
type Network struct {
	profile Profile
	cancel  context.CancelFunc
	calm    chan struct{}
	calming sync.Once
	wg      sync.WaitGroup

	mu      sync.Mutex
	proxies map[string]*Proxy // nil after Close
	phase   Phase
	rounds  int
	forgets time.Duration
	ends    time.Duration // of upgraded connections
}

// NewNetwork begins a profile, which goes on until Calm or Close.
func NewNetwork(p Profile) *Network {
	ctx, cancel := context.WithCancel(context.Background())
	n := &Network{profile: p, cancel: cancel, calm: make(chan struct{}), proxies: map[string]*Proxy{}, forgets: p.Forgets, ends: p.Upgrades}
	if len(p.Phases) > 0 {
		n.phase = p.Phases[0]
		n.wg.Go(func() { n.play(ctx) })
	}
	return n
}

// Dial connects to addr through the network; it has the form that net.Dialer.DialContext has.
func (n *Network) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p, err := n.proxy(addr)
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, p.Addr())
}

func (n *Network) proxy(addr string) (*Proxy, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proxies == nil {
		return nil, fmt.Errorf("network %s: %w", n.profile.Name, net.ErrClosed)
	}
	if p := n.proxies[addr]; p != nil {
		return p, nil
	}
	p, err := Listen("127.0.0.1:0", addr)
	if err != nil {
		return nil, err
	}
	n.proxies[addr] = p
	n.set(p)
	return p, nil
}

// set makes a proxy as the network is now; mu is held.
func (n *Network) set(p *Proxy) {
	up, down := n.profile.Up, n.profile.Down
	up.State, down.State = n.phase.Up, n.phase.Down
	p.change(func(f *[2]Fault) { f[Up], f[Down] = up, down })
	p.Forget(n.forgets)
	p.EndUpgraded(n.ends)
}

// play goes through the phases, over and over.
func (n *Network) play(ctx context.Context) {
	for i := 0; ; i++ {
		phase := n.profile.Phases[i%len(n.profile.Phases)]
		n.enter(phase)
		t := time.NewTimer(phase.For)
		select {
		case <-t.C:
		case <-n.calm:
		case <-ctx.Done():
		}
		t.Stop()
		select {
		case <-n.calm:
			return
		case <-ctx.Done():
			return
		default:
		}
		n.leave(phase, i)
	}
}

func (n *Network) enter(phase Phase) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase = phase
	for _, p := range n.proxies {
		n.set(p)
	}
}

func (n *Network) leave(phase Phase, i int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if phase.Stranded {
		for _, p := range n.proxies {
			p.Strand()
		}
	}
	n.rounds = (i + 1) / len(n.profile.Phases)
}

// Calm ends what happens to the network and makes it pass everything from now on; delays and rates stay. Connections that are
// stranded stay so.
func (n *Network) Calm() {
	n.calming.Do(func() { close(n.calm) })
	n.wg.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.phase, n.forgets, n.ends = Phase{}, 0, 0
	for _, p := range n.proxies {
		n.set(p)
	}
}

// Rounds is how often all phases of the profile have passed.
func (n *Network) Rounds() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.rounds
}

// Stats adds up what went through.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	var sum Stats
	for _, p := range n.proxies {
		s := p.Stats()
		sum.Conns += s.Conns
		sum.Accepted += s.Accepted
		sum.Stranded += s.Stranded
		sum.Ended += s.Ended
		for d := range 2 {
			sum.Bytes[d] += s.Bytes[d]
			sum.Lost[d] += s.Lost[d]
		}
	}
	return sum
}

// Close ends everything: connections are reset, and no more can be made.
func (n *Network) Close() error {
	n.cancel()
	n.wg.Wait()
	n.mu.Lock()
	proxies := n.proxies
	n.proxies = nil
	n.mu.Unlock()
	for _, p := range proxies {
		p.Close()
	}
	return nil
}
