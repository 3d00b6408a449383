package client

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// network is TCP in memory, so that tests run on a fake clock.
type network struct {
	mu        sync.Mutex
	listeners map[string]*pipes
	dials     []string
	slow      map[string]time.Duration // by address: how long a connection takes; -1: for ever
}

type pipes struct {
	addr  string
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: p.addr} }

func (n *network) listen(addr string) *pipes {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &pipes{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	n.listeners[addr] = p
	return p
}

func (n *network) unlisten(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.listeners[addr]; l != nil {
		l.Close()
		delete(n.listeners, addr)
	}
}

func (n *network) slowly(addr string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow[addr] = d
}

func (n *network) dialled() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.dials)
}

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	p, slow := n.listeners[addr], n.slow[addr]
	n.dials = append(n.dials, addr)
	n.mu.Unlock()
	if slow < 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := sleep(ctx, slow+time.Millisecond); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("%s: connection refused", addr)
	}
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, fmt.Errorf("%s: connection refused", addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
