package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"

	"github.com/antipode-im/antipode/wire"
)

const (
	// streamIdle is how long this end bears silence: the gateway's bound is lower, and the pings' lower still.
	streamIdle = 15 * time.Minute
	// streamEnd is how long the answer to a bye may take.
	streamEnd = time.Second
	// streamMost bounds a frame of a gateway.
	streamMost = 16 << 20
	// streamClose bounds a close: code and name.
	streamClose = 125
	// streamAgain is how long WebTransport is left out after it failed, was cut early, or was no faster than a WebSocket that began later: most
	// networks that let no UDP through never do.
	streamAgain = 10 * time.Minute
)

// streams remembers whether this client's network bears WebTransport.
type streams struct {
	mu    sync.Mutex
	until time.Time // left out until then
}

// may tells whether to try a gateway by WebTransport: policy and gateway offer it, nothing says that it fails, and the network
// is not one that reaches out by a proxy.
func (s *streams) may(e wire.Endpoint, p wire.Policy) bool {
	if !p.WebTransport || e.WebTransport == "" {
		return false
	}
	s.mu.Lock()
	out := time.Now().Before(s.until)
	s.mu.Unlock()
	u, err := url.Parse(e.URL)
	if out || err != nil {
		return false
	}
	u.Scheme = "https"
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	return err == nil && proxy == nil
}

func (s *streams) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Now().Add(streamAgain)
}

// ended notes that a connection is gone. It tells whether it was by WebTransport and cut before it had lasted for as long as one must:
// then this network does not bear it, and it is left out as one that failed.
func (s *streams) ended(carries socket, lasted time.Duration, cut bool, fallback time.Duration) bool {
	if _, ok := carries.(*streamSocket); !ok || !cut || lasted >= fallback {
		return false
	}
	s.failed()
	return true
}

// streamSocket is a session of WebTransport: each frame goes behind its length on the session's one stream.
type streamSocket struct {
	conn    *quic.Conn
	session *webtransport.Session
	stream  *webtransport.Stream
	reader  *bufio.Reader
}

// dialStream opens a session.
func (c *Client) dialStream(ctx context.Context, e wire.Endpoint, p wire.Policy) (_ socket, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("gateway %s by WebTransport: %w", e.ID, err)
		}
	}()
	s := new(streamSocket)
	t := &tls.Config{}
	if c.cfg.TLS != nil {
		t = c.cfg.TLS.Clone()
	}
	t.NextProtos, t.MinVersion = []string{"h3"}, tls.VersionTLS13
	d := &webtransport.Transport{
		TLSClientConfig: t, ApplicationProtocols: []string{c.cfg.Subprotocol},
		QUICConfig: &quic.Config{
			HandshakeIdleTimeout: ms(p.ConnectTimeoutMs), MaxIdleTimeout: streamIdle, EnableDatagrams: true, EnableStreamResetPartialDelivery: true,
		},
		DialAddr: func(ctx context.Context, addr string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			conn, err := quic.DialAddr(ctx, addr, t, q)
			if err == nil {
				c.endpoints.measured(e.Region, conn.ConnectionStats().MinRTT)
				s.conn = conn
			}
			return conn, err
		},
	}
	response, session, err := d.Dial(ctx, e.WebTransport, nil)
	if err != nil {
		if response != nil {
			response.Body.Close()
			return nil, fmt.Errorf("it answered %s: %w", response.Status, err)
		}
		return nil, err
	}
	s.session = session
	if got := session.SessionState().ApplicationProtocol; got != c.cfg.Subprotocol {
		s.Close()
		return nil, fmt.Errorf("it does not speak %s", c.cfg.Subprotocol)
	}
	if s.stream, err = session.OpenStream(); err != nil {
		s.Close()
		return nil, err
	}
	s.reader = bufio.NewReader(s.stream)
	return s, nil
}

func (s *streamSocket) ReadMessage() (typ int, b []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(s.reader, head[:]); err != nil {
		return 0, nil, ended(err)
	}
	switch n := binary.BigEndian.Uint32(head[:]); {
	case n == 0: // the end: the close code, and its name
		end, err := io.ReadAll(io.LimitReader(s.reader, streamClose))
		if len(end) < 2 {
			return 0, nil, ended(errors.Join(errors.New("a close without a code"), err))
		}
		return 0, nil, &websocket.CloseError{Code: int(binary.BigEndian.Uint16(end)), Text: string(end[2:])}
	case n > streamMost:
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	default:
		b = make([]byte, n)
		_, err = io.ReadFull(s.reader, b)
		return wire.BinaryMessage, b, ended(err)
	}
}

// ended finds the close code of a session that was closed before it could be said on the stream.
func ended(err error) error {
	if closed, ok := errors.AsType[*webtransport.SessionError](err); ok && closed.ErrorCode != 0 {
		return &websocket.CloseError{Code: int(closed.ErrorCode), Text: closed.Message}
	}
	return err
}

func (s *streamSocket) WriteMessage(_ int, b []byte) error {
	_, err := s.stream.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

func (s *streamSocket) SetReadDeadline(t time.Time) error  { return s.stream.SetReadDeadline(t) }
func (s *streamSocket) SetWriteDeadline(t time.Time) error { return s.stream.SetWriteDeadline(t) }

func (s *streamSocket) farewell() {
	_ = s.stream.Close() // the session may have ended
	t := time.NewTimer(streamEnd)
	defer t.Stop()
	select {
	case <-s.session.Context().Done():
	case <-t.C:
	}
}

func (s *streamSocket) abandon() { s.Close() }

func (s *streamSocket) Close() error { return s.conn.CloseWithError(0, "") }
