package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
)

// conns are connections to brokers for what is asked by the hundred a second, fetches and appends. An exchange happens on
// the goroutine that asks. (kafka-go's transport, which carries all else, has a goroutine for each conn: two more changes
// of goroutine an exchange, and as many threads to wake.)
type conns struct {
	c      *Cluster
	mu     sync.Mutex
	idle   map[string][]*conn // by address; the one used last is the last
	closed bool
}

// conn carries one exchange at a time. The first that does not end well ends it.
type conn struct {
	*protocol.Conn
	sock net.Conn // below TLS
	addr string
	used time.Time
}

// connIdle is how long a conn may be unused: less than brokers wait before they close one (10 minutes by default).
const connIdle = time.Minute

// ask sends a request to the broker at an address and returns its answer. It ends with ctx.
func (s *conns) ask(ctx context.Context, addr string, req protocol.Message) (protocol.Message, error) {
	n, err := s.get(ctx, addr)
	if err != nil {
		return nil, err
	}
	settled := context.AfterFunc(ctx, n.interrupt)
	res, err := n.RoundTrip(req)
	if !settled() || err != nil {
		n.Close()
		if err == nil { // it was answered while ctx ended
			return res, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.drop(addr, time.Now()) // whatever ended this one likely ended those that wait beside it
		return nil, err
	}
	s.put(n)
	return res, nil
}

// interrupt has a running exchange fail. The socket is closed, so that TLS does not say goodbye first: to a broker that hangs that may
// take 5 s.
func (n *conn) interrupt() { n.sock.Close() }

// get returns a conn that is not in use, or a new one.
func (s *conns) get(ctx context.Context, addr string) (*conn, error) {
	s.mu.Lock()
	all := s.idle[addr]
	k := len(all) - 1
	fresh := k >= 0 && time.Since(all[k].used) < connIdle
	var n *conn
	if fresh {
		n, all[k] = all[k], nil
		s.idle[addr] = all[:k]
	}
	s.mu.Unlock()
	if fresh {
		return n, nil
	}
	s.drop(addr, time.Now().Add(-connIdle))
	return s.open(ctx, addr)
}

// put takes a conn back, and closes those of its broker that nobody has needed for long.
func (s *conns) put(n *conn) {
	n.used = time.Now()
	var ended []*conn
	s.mu.Lock()
	if s.closed {
		ended = []*conn{n}
	} else {
		s.idle[n.addr] = append(s.idle[n.addr], n)
		ended = s.trim(n.addr, n.used.Add(-connIdle))
	}
	s.mu.Unlock()
	closeAll(ended)
}

func closeAll(all []*conn) {
	for _, n := range all {
		n.Close()
	}
}

// drop closes the conns to an address that have not been in use since a time.
func (s *conns) drop(addr string, since time.Time) {
	s.mu.Lock()
	ended := s.trim(addr, since)
	s.mu.Unlock()
	closeAll(ended)
}

// trim takes out the conns to an address that have not been in use since a time. Under mu.
func (s *conns) trim(addr string, since time.Time) []*conn {
	all := s.idle[addr]
	n := 0
	for n < len(all) && !all[n].used.After(since) {
		n++
	}
	switch n {
	case 0:
		return nil
	case len(all):
		delete(s.idle, addr)
		return all
	}
	ended := slices.Clone(all[:n])
	s.idle[addr] = slices.Delete(all, 0, n)
	return ended
}

// keep drops those to brokers that the layout does not name.
func (s *conns) keep(lay *layout) {
	named := make(map[string]bool, len(lay.brokers))
	for _, addr := range lay.brokers {
		named[addr] = true
	}
	s.mu.Lock()
	var ended []*conn
	for addr, all := range s.idle {
		if !named[addr] {
			ended = append(ended, all...)
			delete(s.idle, addr)
		}
	}
	s.mu.Unlock()
	closeAll(ended)
}

// close closes those that are not in use; the others are closed by whoever uses them.
func (s *conns) close() {
	s.mu.Lock()
	idle := s.idle
	s.closed, s.idle = true, nil
	s.mu.Unlock()
	for _, all := range idle {
		closeAll(all)
	}
}

// open connects to a broker, by TLS and with SASL where they are configured, and learns what it speaks.
func (s *conns) open(ctx context.Context, addr string) (*conn, error) {
	c := s.c
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	raw, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	sock, err := c.socks.add(raw)
	if err != nil {
		return nil, err
	}
	plain := sock
	if c.cfg.TLS != nil {
		cfg := c.cfg.TLS
		if cfg.ServerName == "" {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				plain.Close()
				return nil, fmt.Errorf("broker %q: want host:port: %w", addr, err)
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		plain = tls.Client(plain, cfg)
	}
	n := &conn{Conn: protocol.NewConn(plain, c.cfg.ClientID), sock: sock, addr: addr}
	settled := context.AfterFunc(ctx, n.interrupt)
	err = n.greet(ctx, c)
	if !settled() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		n.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("connect: %w", cause)
		}
		return nil, err
	}
	return n, nil
}

// greet learns which versions of which requests the broker speaks, and authenticates.
func (n *conn) greet(ctx context.Context, c *Cluster) error {
	res, err := n.RoundTrip(&apiversions.Request{})
	if err != nil {
		return err
	}
	spoken := res.(*apiversions.Response)
	if err := codeError(spoken.ErrorCode, ""); err != nil {
		return err
	}
	versions := make(map[protocol.ApiKey]int16, len(spoken.ApiKeys))
	for _, k := range spoken.ApiKeys {
		key := protocol.ApiKey(k.ApiKey)
		versions[key] = key.SelectVersion(k.MinVersion, k.MaxVersion)
	}
	n.SetVersions(versions)
	if c.sasl == nil {
		return nil
	}
	res, err = n.RoundTrip(&saslhandshake.Request{Mechanism: c.sasl.Name()})
	if err != nil {
		return err
	}
	if err := codeError(res.(*saslhandshake.Response).ErrorCode, ""); err != nil {
		return err
	}
	dialogue, say, err := c.sasl.Start(ctx)
	for done := false; err == nil && !done; {
		var heard []byte
		if heard, err = n.authenticate(say); err == nil {
			done, say, err = dialogue.Next(ctx, heard)
		}
	}
	return err
}

// authenticate says one thing of a dialogue and returns what the broker says to it.
func (n *conn) authenticate(say []byte) ([]byte, error) {
	res, err := n.RoundTrip(&saslauthenticate.Request{AuthBytes: say})
	switch {
	case errors.Is(err, io.EOF): // so old brokers refuse
		return nil, kafkago.SASLAuthenticationFailed
	case err != nil:
		return nil, err
	}
	answer := res.(*saslauthenticate.Response)
	return answer.AuthBytes, codeError(answer.ErrorCode, answer.ErrorMessage)
}
