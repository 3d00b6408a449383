package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

const (
	maxHold   = 25 * time.Second // how long an answer may wait for frames
	minHold   = 2 * time.Second  // after held requests that were cut
	pollBatch = 64               // frames of one request
)

// pollSocket is a socket made of requests (docs/protocol.md, Long poll): one that holds brings frames, one that does not takes them
// away. A request without an answer is sent again under its number for patience; then the socket is lost, as a WebSocket
// is, and its session can be resumed.
//
// All frames but the first go by requests that do not hold: those of requests under way together are handled in no given order.
type pollSocket struct {
	post     func(ctx context.Context, body []byte) ([]byte, error)
	codec    *wire.Codec
	gateway  string
	patience time.Duration
	most     atomic.Int64 // bytes of the frames of one request

	ctx    context.Context
	cancel context.CancelCauseFunc
	out    chan []byte
	unsent atomic.Int64 // of those written
	in     chan []byte
	wg     sync.WaitGroup

	mu    sync.Mutex
	due   *time.Timer // the read deadline
	late  chan struct{}
	abort context.CancelFunc // of the request that holds
}

func newPollSocket(ctx context.Context, codec *wire.Codec, gateway string, patience time.Duration, post func(context.Context, []byte) ([]byte, error)) *pollSocket {
	p := &pollSocket{
		post: post, codec: codec, gateway: gateway, patience: patience,
		out: make(chan []byte, sendQueue), in: make(chan []byte, sendQueue), late: make(chan struct{}),
	}
	p.most.Store(32 << 10)
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	p.wg.Go(p.receive)
	return p
}

// receive opens the connection with the first frame written, and keeps a request that holds under way.
func (p *pollSocket) receive() {
	var q wire.PollRequest
	select {
	case first := <-p.out:
		q.Frames = [][]byte{first}
	case <-p.ctx.Done():
		return
	}
	hold := maxHold
	for q.Number = 1; ; q.Number++ {
		a, err := p.exchange(&q, &hold)
		if err != nil {
			p.cancel(err)
			return
		}
		if q.Number == 1 {
			p.unsent.Add(-1)
			q.Conn, q.Frames = a.Conn, nil
			if q.Conn == "" && a.Close == 0 {
				p.cancel(im.Errorf(im.CodeUnavailable, "gateway %s opened a poll without a name", p.gateway))
				return
			}
			p.wg.Go(func() { p.transmit(q.Conn) })
		}
		for _, f := range a.Frames {
			select {
			case p.in <- f:
			case <-p.ctx.Done():
				return
			}
		}
		if a.Close != 0 {
			p.cancel(&websocket.CloseError{Code: a.Close})
			return
		}
	}
}

// transmit sends what is written, with one request under way.
func (p *pollSocket) transmit(conn string) {
	for number := uint32(1); ; number++ {
		q := wire.PollRequest{Conn: conn, Number: number}
		size := int64(0)
		take := func(f []byte) {
			q.Frames = append(q.Frames, f)
			size += int64(len(f))
		}
		select {
		case f := <-p.out:
			take(f)
		case <-p.ctx.Done():
			return
		}
		for more := true; more && len(q.Frames) < pollBatch && size < p.most.Load(); {
			select {
			case f := <-p.out:
				take(f)
			default:
				more = false
			}
		}
		a, err := p.exchange(&q, nil)
		if err != nil {
			p.cancel(err)
			return
		}
		p.unsent.Add(-int64(len(q.Frames)))
		if a.Close != 0 { // what it says is told to the request that holds, unless that is gone as well
			p.cancel(&websocket.CloseError{Code: a.Close})
			return
		}
	}
}

// exchange makes a request and returns its answer, trying again for a while. hold is nil for one that does not hold; it is halved
// when one that does is cut.
func (p *pollSocket) exchange(q *wire.PollRequest, hold *time.Duration) (a wire.PollAnswer, err error) {
	var since time.Time // of the first failure
	for try := 1; ; try++ {
		b, aborted, err := p.request(q, hold)
		if err == nil {
			if a, err = p.codec.DecodePollAnswer(b); err != nil {
				return a, im.Errorf(im.CodeUnavailable, "gateway %s answered a poll with: %v", p.gateway, err)
			}
			return a, nil
		}
		said, coded := asError(err)
		switch {
		case p.ctx.Err() != nil:
			return a, context.Cause(p.ctx)
		case q.Conn == "": // there is nothing yet that a second request could name
			return a, err
		case coded && actionOf(err) != im.ActionBackOff:
			return a, err
		case aborted:
			since, try = time.Time{}, 0
			continue
		case hold != nil && !coded:
			*hold = max(*hold/2, minHold)
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > p.patience {
			return a, &im.Error{Code: im.CodeUnavailable, Detail: fmt.Sprintf("gateway %s: %v", p.gateway, err)}
		}
		wait := min(100*time.Millisecond<<min(try, 5), 2*time.Second)
		if coded {
			wait = max(wait, said.RetryAfter)
		}
		if sleep(p.ctx, wait/2+rand.N(wait/2+1)) != nil {
			return a, context.Cause(p.ctx)
		}
	}
}

// request is one try. aborted tells that poke ended it.
func (p *pollSocket) request(q *wire.PollRequest, hold *time.Duration) (b []byte, aborted bool, err error) {
	if hold == nil {
		ctx, cancel := context.WithTimeout(p.ctx, p.patience)
		defer cancel()
		b, err = p.post(ctx, p.codec.EncodePoll(q))
		return b, false, err
	}
	q.HoldMs = uint32(hold.Milliseconds())
	ctx, cancel := context.WithTimeout(p.ctx, *hold+p.patience)
	defer cancel()
	p.mu.Lock()
	p.abort = cancel
	p.mu.Unlock()
	b, err = p.post(ctx, p.codec.EncodePoll(q))
	return b, errors.Is(ctx.Err(), context.Canceled), err
}

// ReadMessage implements socket.
func (p *pollSocket) ReadMessage() (typ int, b []byte, err error) {
	b, err = p.read()
	return p.codec.MessageType(), b, err
}

// WriteMessage implements socket: a frame waits for room for writeTimeout at most.
func (p *pollSocket) WriteMessage(_ int, b []byte) error { return p.write(b) }

// SetWriteDeadline implements socket. Writes have one of their own.
func (p *pollSocket) SetWriteDeadline(time.Time) error { return nil }

func (p *pollSocket) abandon() { p.Close() }

func (p *pollSocket) read() ([]byte, error) {
	p.mu.Lock()
	late := p.late
	p.mu.Unlock()
	select {
	case f := <-p.in:
		return f, nil
	default:
	}
	select {
	case f := <-p.in:
		return f, nil
	case <-late:
		return nil, fmt.Errorf("gateway %s: %w", p.gateway, os.ErrDeadlineExceeded)
	case <-p.ctx.Done():
		select {
		case f := <-p.in: // it came before the end
			return f, nil
		default:
			return nil, context.Cause(p.ctx)
		}
	}
}

func (p *pollSocket) write(frame []byte) error {
	t := time.NewTimer(writeTimeout)
	defer t.Stop()
	p.unsent.Add(1)
	select {
	case p.out <- frame:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	case <-t.C:
		return fmt.Errorf("gateway %s takes no more", p.gateway)
	}
}

// SetReadDeadline implements socket.
func (p *pollSocket) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due != nil {
		p.due.Stop()
		p.due = nil
	}
	late := make(chan struct{})
	p.late = late
	if !t.IsZero() {
		p.due = time.AfterFunc(time.Until(t), func() { close(late) })
	}
	return nil
}

// welcome takes the gateway's limit, of which a body has twice as much, and the policy's wish; 0: none.
func (p *pollSocket) welcome(maxFrame uint32, wish int64) {
	if maxFrame > 0 {
		p.most.Store(int64(maxFrame))
	}
	if wish > 0 {
		p.most.Store(min(p.most.Load(), wish))
	}
	_ = p.SetReadDeadline(time.Time{}) // it never fails
}

// farewell waits until what was written is sent: a bye ends the connection.
func (p *pollSocket) farewell() {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(writeTimeout); p.unsent.Load() > 0 && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-p.ctx.Done():
			return
		}
	}
}

// poke repeats the request that holds: its connection may have died unnoticed.
func (p *pollSocket) poke() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.abort != nil {
		p.abort()
	}
}

func (p *pollSocket) Close() error {
	p.cancel(ErrClosed)
	_ = p.SetReadDeadline(time.Time{}) // it never fails
	p.wg.Wait()
	return nil
}

// pollTo posts polls to a gateway.
func (c *Client) pollTo(e wire.Endpoint) func(ctx context.Context, body []byte) ([]byte, error) {
	u := strings.TrimSuffix(e.PullURL, "/") + "/v1/poll"
	media := protobufType
	if c.cfg.Subprotocol == wire.SubprotocolJSON {
		media = "application/json"
	}
	return func(ctx context.Context, body []byte) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, u, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Content-Type", media)
		resp, err := c.cfg.HTTP.Do(r)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxHTTPBytes+1))
		switch {
		case err != nil:
			return nil, err
		case len(b) > maxHTTPBytes:
			return nil, im.Errorf(im.CodeUnavailable, "gateway %s answered a poll with more than %d bytes", e.ID, maxHTTPBytes)
		case resp.StatusCode == http.StatusOK:
			return b, nil
		}
		said, err := decodeHTTPError(resp.Header.Get("Content-Type"), b)
		if err != nil {
			return nil, fmt.Errorf("gateway %s answered a poll with %s", e.ID, resp.Status)
		}
		return nil, remoteError(said)
	}
}
