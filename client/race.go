package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/wire"
)

// racer is one dial.
type racer struct {
	ws       socket
	endpoint wire.Endpoint
	err      error
}

// race dials the gateways in their order, each next one after the policy's stagger or when one fails, at most the
// policy's width at once. The first to upgrade wins. The others are closed before hello, so no gateway takes them for a
// login.
func (c *Client) race(ctx context.Context, list []wire.Endpoint, p wire.Policy) (socket, wire.Endpoint, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan racer)
	dial := func(e wire.Endpoint) {
		ws, err := c.dial(ctx, e, p)
		select {
		case results <- racer{ws, e, err}:
		case <-ctx.Done(): // somebody else won
			if ws != nil {
				ws.abandon()
			}
		}
	}
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	started, running := 0, 0
	var errs []error
	for started < len(list) || running > 0 {
		select {
		case <-stagger.C:
			if started == len(list) || running == p.RaceWidth {
				continue
			}
			e := list[started]
			started++
			running++
			c.wg.Go(func() { dial(e) })
			stagger.Reset(ms(p.RaceStaggerMs))
		case r := <-results:
			running--
			if r.err == nil {
				return r.ws, r.endpoint, nil
			}
			if ctx.Err() == nil {
				c.endpoints.failed(r.endpoint.Key())
			}
			errs = append(errs, r.err)
			stagger.Reset(0)
		case <-ctx.Done():
			return nil, wire.Endpoint{}, context.Cause(ctx)
		}
	}
	return nil, wire.Endpoint{}, fmt.Errorf("none of %d gateways can be reached: %w", len(list), errors.Join(errs...))
}

// stopwatch times the connects of a dial, by address, without the lookup of the name before them.
type stopwatch struct {
	mu    sync.Mutex
	began map[string]time.Time
	times map[string]time.Duration
}

func (s *stopwatch) on(ctx context.Context) context.Context {
	s.began, s.times = map[string]time.Time{}, map[string]time.Duration{}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(_, addr string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.began[addr] = time.Now()
		},
		ConnectDone: func(_, addr string, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if began, ok := s.began[addr]; ok && err == nil {
				s.times[addr] = time.Since(began)
			}
		},
	})
}

// took is the time of the connect to an address; all of it where the dialer does not tell of connects.
func (s *stopwatch) took(addr net.Addr, all time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if addr != nil {
		if d, ok := s.times[addr.String()]; ok {
			return d
		}
	}
	return all
}

// dial opens a socket to one gateway. Where policy and gateway offer WebTransport, that has a stagger's time ahead of the
// WebSocket, and the first to be open wins.
func (c *Client) dial(ctx context.Context, e wire.Endpoint, p wire.Policy) (socket, error) {
	ctx, cancel := context.WithTimeout(ctx, ms(p.ConnectTimeoutMs))
	defer cancel()
	if !c.streams.may(e, p) {
		return c.dialWebSocket(ctx, e, p)
	}
	type result struct {
		s      socket
		err    error
		stream bool
	}
	results := make(chan result, 2)
	running := 1
	c.wg.Go(func() {
		s, err := c.dialStream(ctx, e, p)
		results <- result{s, err, true}
	})
	stagger := time.NewTimer(ms(p.RaceStaggerMs))
	defer stagger.Stop()
	begun := false
	beside := func() {
		if !begun {
			begun = true
			running++
			c.wg.Go(func() {
				s, err := c.dialWebSocket(ctx, e, p)
				results <- result{s, err, false}
			})
		}
	}
	var errs []error
	for {
		select {
		case <-stagger.C:
			beside()
		case r := <-results:
			running--
			if r.err == nil {
				if !r.stream {
					c.streams.failed()
				}
				if rest := running; rest > 0 {
					cancel()
					c.wg.Go(func() {
						if late := <-results; late.s != nil {
							late.s.abandon()
						}
					})
				}
				return r.s, nil
			}
			errs = append(errs, r.err)
			if ctx.Err() != nil && running == 0 {
				return nil, errors.Join(errs...)
			}
			if r.stream && ctx.Err() == nil {
				c.streams.failed()
				c.cfg.Logger.Debug("no WebTransport", "error", r.err)
				beside()
			}
			if running == 0 {
				return nil, errors.Join(errs...)
			}
		}
	}
}

func (c *Client) dialWebSocket(ctx context.Context, e wire.Endpoint, p wire.Policy) (socket, error) {
	d := websocket.Dialer{
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			var watch stopwatch
			start := time.Now()
			conn, err := c.cfg.Dial(watch.on(ctx), network, addr)
			if err == nil {
				c.endpoints.measured(e.Region, watch.took(conn.RemoteAddr(), time.Since(start)))
			}
			return conn, err
		},
		Proxy:            http.ProxyFromEnvironment,
		TLSClientConfig:  c.cfg.TLS,
		HandshakeTimeout: ms(p.ConnectTimeoutMs),
		Subprotocols:     []string{c.cfg.Subprotocol},
	}
	ws, resp, err := d.DialContext(ctx, e.URL, nil)
	if resp != nil {
		resp.Body.Close() // what there is of it was read
	}
	if err != nil {
		if resp != nil {
			return nil, fmt.Errorf("gateway %s answered %s: %w", e.ID, resp.Status, err)
		}
		return nil, fmt.Errorf("gateway %s: %w", e.ID, err)
	}
	if got := ws.Subprotocol(); got != c.cfg.Subprotocol {
		ws.Close()
		return nil, fmt.Errorf("gateway %s does not speak %s", e.ID, c.cfg.Subprotocol)
	}
	return webSocket{ws}, nil
}
