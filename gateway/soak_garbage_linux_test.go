package gateway

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// garbage is clients that do everything wrong.
type garbage struct {
	rig   *rig
	until time.Time
	users atomic.Int64
	done  []atomic.Int64 // of each of spoils, how often
}

// spoil does one wrong thing after the other, each on a new connection, from an address of its own.
func (g *garbage) spoil(t *testing.T, n int) {
	kinds := spoils()
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 7, byte(n+1))}
	for round := n; time.Now().Before(g.until); round++ {
		// The kinds go round, so that each is done however slow the machine is; what they do is drawn.
		at := round % len(kinds)
		d := net.Dialer{LocalAddr: from, Timeout: soakPatience}
		c, err := d.DialContext(t.Context(), "tcp", g.rig.g.Addr())
		if err != nil {
			t.Errorf("garbage cannot connect: %v", err)
			return
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second)) // whatever it waits for
		b := &brat{Conn: c, g: g, rng: rand.New(rand.NewPCG(uint64(n), uint64(round))), in: bufio.NewReader(c)}
		kinds[at].do(b)
		if b.rng.IntN(2) == 0 {
			_ = c.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.Close()
		g.done[at].Add(1)
	}
}

// brat is one bad client. What it writes may fail: it has been thrown out.
type brat struct {
	net.Conn
	g   *garbage
	rng *rand.Rand
	in  *bufio.Reader
}

// wrong is a way to behave badly.
type wrong struct {
	name string
	do   func(*brat)
}

func spoils() []wrong {
	return []wrong{
		{"send noise", func(b *brat) { b.write(b.noise(1 << 14)); b.listen(50) }},
		{"say nothing", func(b *brat) { b.listen(20) }},
		{"leave in the middle of the handshake", func(b *brat) {
			h := b.handshake()
			b.write(h[:b.rng.IntN(len(h))])
			b.listen(20)
		}},
		{"send a handshake with a byte wrong", func(b *brat) {
			h := b.handshake()
			h[b.rng.IntN(len(h))] = byte(b.rng.Uint32())
			b.write(h)
			b.write(b.noise(100))
			b.listen(20)
		}},
		{"send huge headers", func(b *brat) {
			b.write([]byte("GET /v1/ws HTTP/1.1\r\nHost: x\r\nX-Long: "))
			b.write([]byte(strings.Repeat("long", b.rng.IntN(1<<18))))
			b.write([]byte("\r\n\r\n"))
			b.listen(20)
		}},
		{"dribble a handshake", func(b *brat) {
			for _, c := range b.handshake()[:20+b.rng.IntN(20)] {
				b.write([]byte{c})
				b.listen(2)
			}
		}},
		{"send noise after the handshake", func(b *brat) {
			if b.upgrade() {
				b.write(b.noise(1 << 12))
				b.listen(50)
			}
		}},
		{"send garbage in good frames as a first message", func(b *brat) {
			if b.upgrade() {
				b.frame(0x80|byte(1+b.rng.IntN(2)), b.noise(1<<10))
				b.listen(50)
			}
		}},
		{"claim frames of every length and kind", func(b *brat) {
			if b.upgrade() {
				head := []byte{byte(b.rng.Uint32()), 0x80 | 127}
				b.write(binary.BigEndian.AppendUint64(head, b.rng.Uint64()>>b.rng.IntN(64)))
				b.write(b.noise(1 << 12))
				b.listen(20)
			}
		}},
		{"log in with a bad token", func(b *brat) {
			if b.upgrade() {
				b.send(&wire.Hello{Token: string(b.noise(300)), Device: "d", Platform: "ios", Login: 1})
				b.listen(20)
			}
		}},
		{"send broken frames once logged in", func(b *brat) {
			if b.login() {
				for range 20 {
					m := b.message()
					for range 1 + b.rng.IntN(4) {
						m[b.rng.IntN(len(m))] = byte(b.rng.Uint32())
					}
					b.frame(0x82, m[:1+b.rng.IntN(len(m))])
				}
				b.listen(50)
			}
		}},
		{"send fragments without end", func(b *brat) {
			if b.login() {
				b.frame(0x02, b.noise(100))
				for range 200 {
					b.frame(0x00, b.noise(1000))
				}
				b.listen(20)
			}
		}},
		{"flood", func(b *brat) {
			if b.login() {
				for range 2000 {
					if !b.frame(0x82, b.message()) {
						return
					}
				}
				b.listen(20)
			}
		}},
		{"ask much and read nothing", func(b *brat) {
			if b.login() {
				for range 150 {
					b.frame(0x89, b.noise(125)) // a ping of WebSocket, which is answered
					b.send(&wire.Ping{})
				}
			}
		}},
		{"send garbage to a long poll", func(b *brat) {
			q := wire.PollRequest{Number: 1, HoldMs: uint32(b.rng.IntN(50)), Frames: [][]byte{b.message()}}
			if b.rng.IntN(2) == 0 { // one that begins well
				q.HoldMs, q.Frames = 1, [][]byte{b.encode(&wire.Hello{Token: b.token(), Device: "d", Platform: "ios", Login: 1}), b.message()}
			}
			if conn := b.poll(&q); conn != "" {
				for n := range uint32(4) { // under numbers that are not its turn, of frames that are none
					b.poll(&wire.PollRequest{Conn: conn, Number: b.rng.Uint32N(3) + n, HoldMs: b.rng.Uint32N(20), Frames: [][]byte{b.noise(1 << 9), b.message()}})
				}
			}
		}},
		{"send noise to a long poll", func(b *brat) {
			body := b.noise(1 << 10)
			b.write(fmt.Appendf(nil, "POST /v1/poll HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n", len(body)+b.rng.IntN(3)-1))
			b.write(body)
			b.listen(20)
		}},
		{"send garbage over HTTP", func(b *brat) {
			path := []string{"/v1/pull", "/v1/submit", "/v1/call/im/list", "/v1/call/x/y", "/v1/ws", "/"}[b.rng.IntN(6)]
			body := b.noise(1 << 10)
			token := b.token()
			if b.rng.IntN(2) == 0 {
				token = token[:b.rng.IntN(len(token))]
			}
			b.write(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n",
				path, token, len(body)+b.rng.IntN(3)-1))
			b.write(body)
			b.listen(20)
		}},
	}
}

func (b *brat) write(p []byte) bool {
	_, err := b.Conn.Write(p)
	return err == nil
}

// listen reads what comes for some milliseconds at most, or until the other end closes.
func (b *brat) listen(ms int) {
	_ = b.SetReadDeadline(time.Now().Add(time.Duration(ms) * time.Millisecond))
	_, _ = io.Copy(io.Discard, b.in) // it ends by the deadline or the close: both will do
}

// noise is up to most random bytes, at least one.
func (b *brat) noise(most int) []byte {
	p := make([]byte, 1+b.rng.IntN(most))
	for i := range p {
		p[i] = byte(b.rng.Uint32())
	}
	return p
}

func (b *brat) handshake() []byte {
	return []byte("GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: " + wire.SubprotocolProtobuf + "\r\n\r\n")
}

func (b *brat) upgrade() bool {
	if !b.write(b.handshake()) {
		return false
	}
	response, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusSwitchingProtocols
}

// poll makes a request of a long poll, half of them with a byte wrong, and returns the name of its conn, if it got one.
func (b *brat) poll(q *wire.PollRequest) string {
	body := b.g.rig.g.codecs[wire.SubprotocolProtobuf].EncodePoll(q)
	if q.Conn != "" && b.rng.IntN(2) == 0 {
		body[b.rng.IntN(len(body))] = byte(b.rng.Uint32())
	}
	b.write(fmt.Appendf(nil, "POST /v1/poll HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n", len(body)))
	b.write(body)
	_ = b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	response, err := http.ReadResponse(b.in, nil)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return ""
	}
	a, err := b.g.rig.g.codecs[wire.SubprotocolProtobuf].DecodePollAnswer(answer)
	if err != nil {
		return ""
	}
	return a.Conn
}

// frame sends one WebSocket frame, masked as a client's must be.
func (b *brat) frame(first byte, payload []byte) bool {
	p := []byte{first}
	switch n := len(payload); {
	case n < 126:
		p = append(p, 0x80|byte(n))
	case n < 1<<16:
		p = binary.BigEndian.AppendUint16(append(p, 0x80|126), uint16(n))
	default:
		p = binary.BigEndian.AppendUint64(append(p, 0x80|127), uint64(n))
	}
	mask := [4]byte{byte(b.rng.Uint32()), byte(b.rng.Uint32()), byte(b.rng.Uint32()), byte(b.rng.Uint32())}
	p = append(p, mask[:]...)
	for i, c := range payload {
		p = append(p, c^mask[i%4])
	}
	return b.write(p)
}

// encode writes a frame's bytes; what does not encode is sent as nothing.
func (b *brat) encode(m proto.Message) []byte {
	p, err := proto.Marshal(wire.FrameOf(m))
	if err != nil {
		return []byte{0}
	}
	return p
}

func (b *brat) send(m proto.Message) bool { return b.frame(0x82, b.encode(m)) }

// message is a frame that a good client could send.
func (b *brat) message() []byte {
	switch b.rng.IntN(4) {
	case 0:
		return b.encode(&wire.PushAck{Number: uint64(b.rng.IntN(3))})
	case 1:
		return b.encode(&wire.Ping{})
	default:
		return b.encode(submit(b.rng.Uint32(), fmt.Sprint("d:bad:", b.rng.IntN(10)), "hi"))
	}
}

func (b *brat) token() string {
	s, err := b.g.rig.issuer.Token(im.UID(fmt.Sprint("bad", b.g.users.Add(1))), time.Now().Add(time.Hour))
	if err != nil {
		return "none"
	}
	return s
}

func (b *brat) login() bool {
	if !b.upgrade() || !b.send(&wire.Hello{Token: b.token(), Device: "d", Platform: "ios", Login: 1}) {
		return false
	}
	_, err := b.in.ReadByte() // of the welcome
	return err == nil
}
