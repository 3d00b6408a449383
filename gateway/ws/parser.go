package ws

import (
	"encoding/binary"
	"errors"
)

// Message is a complete message or control frame from the client.
type Message struct {
	Op      Opcode // Text, Binary, Close, Ping or Pong
	Payload []byte // unmasked; good until the next call
}

// Parser reads one client's stream. The zero value is at the stream's beginning.
type Parser struct {
	head  [14]byte // of a frame, as far as it came
	heads uint8    // bytes of it

	under  bool   // a frame's payload is under way
	left   uint32 // bytes of it that are to come
	passed uint8  // bytes of it that came, mod 4: where the mask goes on
	utf8   runes  // of the message

	op      Opcode // of the message under way; 0: none
	control []byte // of a control frame that came in pieces; lent
	message []byte // of a message that came in pieces or fragments; lent
	done    bool   // message or control was returned: to be given back with the next call
	failed  bool
}

// ErrFailed is returned for what follows an error.
var ErrFailed = errors.New("websocket: the stream has failed before")

// Next reads on in b, whose bytes it may change. It returns how many it took, and a message if one is complete; with an
// empty Op all of b was taken and more is needed. most is how many bytes a message may have. An *Error says how to fail
// the conn; nothing after it can be read.
func (p *Parser) Next(b []byte, most int, pool *Buffers) (m Message, n int, err error) {
	if p.failed {
		return m, len(b), ErrFailed
	}
	p.giveBack(pool)
	for n < len(b) || p.under && p.left == 0 {
		if !p.under {
			took, complete, err := p.header(b[n:], most)
			n += took
			if err != nil {
				return p.fail(n, err)
			}
			if !complete {
				return m, n, nil
			}
		}
		piece := b[n:]
		if uint64(len(piece)) > uint64(p.left) {
			piece = piece[:p.left]
		}
		n += len(piece)
		m, err = p.payload(piece, pool)
		if err != nil {
			return p.fail(n, err)
		}
		if m.Op != 0 {
			return m, n, nil
		}
	}
	return m, n, nil
}

func (p *Parser) fail(n int, err error) (Message, int, error) {
	p.failed = true
	return Message{}, n, err
}

// giveBack returns the buffer of what the last call returned.
func (p *Parser) giveBack(pool *Buffers) {
	if !p.done {
		return
	}
	p.done = false
	if p.control != nil {
		pool.Put(p.control)
		p.control = nil
		return
	}
	pool.Put(p.message)
	p.message = nil
}

// Release gives back what the parser holds, at the end of the stream.
func (p *Parser) Release(pool *Buffers) {
	p.failed, p.done = true, false
	if p.control != nil {
		pool.Put(p.control)
	}
	if p.message != nil {
		pool.Put(p.message)
	}
	p.control, p.message = nil, nil
}

// header takes a frame's header and checks it as early as it can.
func (p *Parser) header(b []byte, most int) (n int, complete bool, err error) {
	for {
		want := 2
		if p.heads >= 2 {
			if want, err = p.checkStart(); err != nil {
				return n, false, err
			}
		}
		if int(p.heads) >= want && want > 2 {
			break
		}
		took := copy(p.head[p.heads:want], b[n:])
		if took == 0 {
			return n, false, nil
		}
		p.heads += uint8(took)
		n += took
	}
	length, err := p.length(most)
	if err != nil {
		return n, false, err
	}
	p.under, p.left, p.passed = true, uint32(length), 0
	return n, true, nil
}

// checkStart checks the first two bytes and tells how long the header is.
func (p *Parser) checkStart() (size int, err error) {
	op, length := p.frameOp(), p.head[1]&0x7f
	switch {
	case p.head[0]&0x70 != 0:
		return 0, protocolError("reserved bits are set, and no extension was agreed")
	case p.head[1]&0x80 == 0:
		return 0, protocolError("a client's frame must be masked")
	case op >= Close && op <= Pong:
		if !p.final() {
			return 0, protocolError("a control frame must not be fragmented")
		}
		if length > MaxControl {
			return 0, protocolError("a control frame of more than %d bytes", MaxControl)
		}
	case op == Continuation:
		if p.op == 0 {
			return 0, protocolError("a continuation without a message")
		}
	case op == Text || op == Binary:
		if p.op != 0 {
			return 0, protocolError("a new message inside a fragmented one")
		}
	default:
		return 0, protocolError("unknown opcode %d", op)
	}
	switch length {
	case 126:
		return 8, nil
	case 127:
		return 14, nil
	}
	return 6, nil
}

// length is the payload's, which must be written in its shortest form and fit.
func (p *Parser) length(most int) (uint64, error) {
	n := uint64(p.head[1] & 0x7f)
	switch n {
	case 126:
		if n = uint64(binary.BigEndian.Uint16(p.head[2:])); n < 126 {
			return 0, protocolError("a length of %d in 16 bits", n)
		}
	case 127:
		if n = binary.BigEndian.Uint64(p.head[2:]); n <= 0xffff || n>>63 != 0 {
			return 0, protocolError("a length of %d in 64 bits", n)
		}
	}
	if p.frameOp() < Close && (n > uint64(most) || uint64(len(p.message))+n > uint64(most)) {
		return 0, &Error{StatusTooBig, "the message is too big"}
	}
	return n, nil
}

func (p *Parser) frameOp() Opcode { return Opcode(p.head[0] & 0x0f) }
func (p *Parser) final() bool     { return p.head[0]&0x80 != 0 }

func (p *Parser) key() (key [4]byte) {
	copy(key[:], p.head[p.heads-4:])
	return key
}

// payload takes a piece of a frame's payload. What comes whole is returned where it stands; the rest is gathered.
func (p *Parser) payload(piece []byte, pool *Buffers) (Message, error) {
	mask(piece, p.key(), int(p.passed))
	whole := len(piece) == int(p.left) // of the rest
	p.left -= uint32(len(piece))
	p.passed = (p.passed + uint8(len(piece)&3)) & 3
	op := p.frameOp()
	if op >= Close {
		if whole && p.control == nil {
			p.frameEnds()
			return p.checked(op, piece)
		}
		if p.control == nil {
			p.control = pool.Get(MaxControl)
		}
		p.control = append(p.control, piece...)
		if !whole {
			return Message{}, nil
		}
		p.frameEnds()
		p.done = true
		return p.checked(op, p.control)
	}
	if op != Continuation {
		p.op = op
	}
	if p.op == Text && !p.utf8.take(piece) {
		return Message{}, &Error{StatusInvalidData, "a text is not UTF-8"}
	}
	last := whole && p.final()
	if whole {
		p.frameEnds()
	}
	if last {
		op, p.op = p.op, 0
		if !p.utf8.complete() {
			return Message{}, &Error{StatusInvalidData, "a text ends inside a character"}
		}
		if p.message == nil {
			return Message{op, piece}, nil
		}
	}
	if p.message == nil {
		p.message = pool.Get(len(piece) + min(int(p.left), firstPiece)) // not all of it: announcing a length costs the client nothing
	}
	p.message = pool.Append(p.message, piece)
	if !last {
		return Message{}, nil
	}
	p.done = true
	return Message{op, p.message}, nil
}

func (p *Parser) frameEnds() { p.heads, p.under, p.passed = 0, false, 0 }

func (p *Parser) checked(op Opcode, payload []byte) (Message, error) {
	if op == Close {
		if _, _, err := ParseClose(payload); err != nil {
			return Message{}, err
		}
	}
	return Message{op, payload}, nil
}

// State is a parser's state between two calls of Next, for another process to go on from.
type State struct {
	Head    []byte // of a frame, as far as it came
	Under   bool   // its payload is under way
	Left    uint32
	Passed  uint8
	Part    []byte // of a rune
	Op      Opcode
	Control []byte
	Message []byte // not nil once a message began, even if it is empty so far
	Begun   bool
	Failed  bool
}

// State writes the parser's state down.
func (p *Parser) State(pool *Buffers) State {
	p.giveBack(pool)
	clone := func(b []byte) []byte { return append([]byte(nil), b...) }
	return State{
		Head: clone(p.head[:p.heads]), Under: p.under, Left: p.left, Passed: p.passed, Part: clone(p.utf8.part[:p.utf8.n]),
		Op: p.op, Control: clone(p.control), Message: clone(p.message), Begun: p.message != nil, Failed: p.failed,
	}
}

// Restore makes a parser that goes on where another stopped.
func Restore(s State, pool *Buffers) Parser {
	p := Parser{under: s.Under, left: s.Left, passed: s.Passed & 3, op: s.Op, failed: s.Failed}
	p.heads = uint8(copy(p.head[:], s.Head))
	p.utf8.n = uint8(copy(p.utf8.part[:], s.Part))
	if len(s.Control) > 0 {
		p.control = append(pool.Get(MaxControl), s.Control...)
	}
	if s.Begun {
		p.message = append(pool.Get(len(s.Message)), s.Message...)
	}
	return p
}

// firstPiece is the most that is set aside for bytes that were announced and did not come.
const firstPiece = 4 << 10
