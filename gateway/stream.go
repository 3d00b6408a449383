package gateway

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/webtransport-go"

	"github.com/antipode-im/antipode/gateway/poll"
	"github.com/antipode-im/antipode/gateway/ws"
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// streamSocket is the socket of a conn by WebTransport: one bidirectional stream that carries each frame behind its length.
// It has a goroutine that reads, and another while there is something to write.
//
// The end is said on the stream: a length of 0, the close code, and its name, so that it comes behind the last frame and is
// sent again like everything else. The session, whose end overtakes what its streams still have to bring, is closed with the
// same code once the client has left, or the conn stops to linger.
type streamSocket struct {
	q       *quicServer
	c       *conn
	conn    *quic.Conn
	session *webtransport.Session
	stream  *webtransport.Stream
	resumed chan struct{} // capacity 1
	closed  chan struct{}
	once    sync.Once
	paused  bool // the reader's

	mu     sync.Mutex
	out    []byte // to be written: whole frames behind their lengths
	status int    // the close code, once it is in out; 0: not yet
	reason string
	writes bool // a writer is at it
	refuse bool // a Write was not taken
}

const (
	// streamBytes is how much a Write gathers behind what is being written before a further one has to wait. One Write may be
	// more: all that is queued, MaxSendBytes at most.
	streamBytes = 64 << 10
	// lengthBytes precede each frame: its length, big-endian.
	lengthBytes = 4
	// streamPart is how much of a frame is read at once: memory grows by what came, not by what was promised.
	streamPart = 2 << 10
)

func newStreamSocket(q *quicServer, conn *quic.Conn, session *webtransport.Session, stream *webtransport.Stream) *streamSocket {
	return &streamSocket{
		q: q, conn: conn, session: session, stream: stream, resumed: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// subprotocol is what was negotiated; a client that offered none gets the first.
func (s *streamSocket) subprotocol() string {
	if p := s.session.SessionState().ApplicationProtocol; p != "" {
		return p
	}
	return wire.SubprotocolProtobuf
}

// read hands frames to the conn.
func (s *streamSocket) read() {
	var head [lengthBytes]byte
	var part [streamPart]byte
	for {
		if s.paused {
			select {
			case <-s.resumed:
				s.paused = false
			case <-s.closed:
				return
			}
		}
		if _, err := io.ReadFull(s.stream, head[:]); err != nil {
			s.ended(err)
			return
		}
		n := int64(binary.BigEndian.Uint32(head[:]))
		if n > int64(s.c.g.cfg.MaxFrame) {
			s.c.ends(im.Errorf(im.CodeFrameTooLarge, "the frame has more than %d bytes", s.c.g.cfg.MaxFrame))
			_, err := io.Copy(io.Discard, s.stream) // until the conn stops to linger
			s.ended(err)
			return
		}
		b := s.c.g.buffers.Get(int(min(n, streamPart)))
		for left := int(n); left > 0; {
			m, err := s.stream.Read(part[:min(left, streamPart)])
			b = s.c.g.buffers.Append(b, part[:m])
			left -= m
			if err != nil && left > 0 {
				s.c.g.buffers.Put(b)
				s.ended(err)
				return
			}
		}
		s.c.message(ws.Message{Op: ws.Opcode(s.c.codec.MessageType()), Payload: b})
		s.c.g.buffers.Put(b)
	}
}

// ended tells the conn that the client left, or its network did.
func (s *streamSocket) ended(err error) {
	if !s.over() {
		s.c.Closed(err)
	}
}

func (s *streamSocket) over() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Write implements poll.Socket. It takes all or nothing, so that what it took is whole frames.
func (s *streamSocket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return 0, poll.ErrClosed
	}
	if len(s.out) >= streamBytes {
		s.refuse = true
		s.start()
		return 0, nil
	}
	for rest := b; len(rest) > 0; {
		op, payload, n := ws.ParseOwn(rest)
		if n == 0 { // never: conns write whole frames
			break
		}
		rest = rest[n:]
		switch op {
		case ws.Text, ws.Binary:
			s.out = append(binary.BigEndian.AppendUint32(s.out, uint32(len(payload))), payload...)
		case ws.Close:
			s.status, s.reason, _ = ws.ParseClose(payload) // this gateway wrote it
			s.out = append(binary.BigEndian.AppendUint32(s.out, 0), payload...)
		}
	}
	s.start()
	return len(b), nil
}

// start has a writer at work. The caller holds mu.
func (s *streamSocket) start() {
	if !s.writes {
		s.writes = true
		s.q.running.Go(s.write)
	}
}

// write writes until there is nothing left, and is the one to end the session once the socket is closed.
func (s *streamSocket) write() {
	var b []byte
	for {
		s.mu.Lock()
		over := s.over()
		b, s.out = s.out, b[:0]
		tell := s.refuse
		s.refuse = false
		parts := s.status != 0 // nothing comes behind it
		if len(b) == 0 && !tell && !over {
			s.writes = false
			if cap(s.out) > streamPart {
				s.out = nil
			}
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if tell && !over {
			s.c.Writable() // there is room behind what is written now
		}
		if len(b) > 0 {
			if _, err := s.stream.Write(b); err != nil {
				s.ended(err)
				s.finish()
				return // still the writer: there is to be no other
			}
			if parts {
				_ = s.stream.Close() // it may have ended
			}
		}
		if over && len(b) == 0 {
			s.finish()
			return
		}
	}
}

// finish closes the session with the code, and the connection once the client had the time to hear of it.
func (s *streamSocket) finish() {
	s.Close()
	s.mu.Lock()
	status, reason := s.status, s.reason
	s.mu.Unlock()
	s.q.dismiss(s.conn, s.session, status, reason)
	s.q.sessions.Add(-1)
}

// Pause implements poll.Socket.
func (s *streamSocket) Pause() { s.paused = true }

// Resume implements poll.Socket.
func (s *streamSocket) Resume() {
	select {
	case s.resumed <- struct{}{}:
	default:
	}
}

// Close implements poll.Socket. What Write took before is written first, within linger.
func (s *streamSocket) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.closed)
		now := time.Now()
		_ = s.stream.SetReadDeadline(now) // it may have ended, and so may the other side
		_ = s.stream.SetWriteDeadline(now.Add(linger))
		s.start()
	})
}
