package ws_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/antipode-im/antipode/gateway/ws"
)

// most is the limit of a message in these tests.
const most = 1 << 20

// frame is a client's frame, masked unless bare.
type frame struct {
	first byte // FIN, reserved bits and opcode
	body  string
	bare  bool
	size  int // of the length's form: 0 the shortest, else 2 or 8 bytes
}

func (f frame) bytes() []byte {
	b := []byte{f.first}
	bit := byte(0x80)
	if f.bare {
		bit = 0
	}
	switch n := len(f.body); {
	case f.size == 8 || n > 0xffff:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(n))
	case f.size == 2 || n > 125:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(n))
	default:
		b = append(b, bit|byte(n))
	}
	if f.bare {
		return append(b, f.body...)
	}
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b = append(b, key[:]...)
	for i := range len(f.body) {
		b = append(b, f.body[i]^key[i&3])
	}
	return b
}

const fin = 0x80

func text(s string) frame    { return frame{first: fin | 1, body: s} }
func binaryF(s string) frame { return frame{first: fin | 2, body: s} }
func ping(s string) frame    { return frame{first: fin | 9, body: s} }
func pong(s string) frame    { return frame{first: fin | 10, body: s} }
func part(op byte, s string) frame {
	return frame{first: op, body: s}
}
func rest(s string) frame { return frame{first: fin, body: s} }
func closing(code int, reason string) frame {
	return frame{first: fin | 8, body: string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason}
}

// conformance is a case: what a client sends, what an echo server answers, and the code it closes with.
type conformance struct {
	name string // the number that Autobahn's test suite has for it, and its subject
	send []frame
	want []string // answers: t:… b:… messages, p:… pongs
	code int      // 0: still open at the end
}

func repeat(n int, f frame) []frame {
	list := make([]frame, n)
	for i := range list {
		list[i] = f
	}
	return list
}

func strs(n int, s string) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = s
	}
	return list
}

// each makes one frame of every byte: a fragmented message.
func each(op byte, s string) []frame {
	list := []frame{part(op, "")}
	for i := range len(s) {
		list = append(list, part(0, s[i:i+1]))
	}
	return append(list, rest(""))
}

// cases follows the sections of Autobahn's case list: 1 framing, 2 pings and pongs, 3 reserved bits, 4 opcodes,
// 5 fragmentation, 6 UTF-8, 7 close handling, 9 limits and performance, 10 auto-fragmentation. 12 and 13 are about
// compression, which is not spoken.
func cases() []conformance {
	var all []conformance
	add := func(name string, send []frame, want []string, code int) {
		all = append(all, conformance{name, send, want, code})
	}
	one := func(f ...frame) []frame { return f }
	utf := "Hello-µ@ßöäüàá-UTF-8!!"

	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		body := strings.Repeat("*", n)
		add(fmt.Sprintf("1.1.%d text of %d", i+1, n), one(text(body)), []string{"t:" + body}, 0)
		body = strings.Repeat("\xfe", n)
		add(fmt.Sprintf("1.2.%d binary of %d", i+1, n), one(binaryF(body)), []string{"b:" + body}, 0)
	}
	add("1.1.9 length of 100 in 16 bits", one(frame{first: fin | 1, body: strings.Repeat("x", 100), size: 2}), nil, 1002)
	add("1.1.10 length of 300 in 64 bits", one(frame{first: fin | 1, body: strings.Repeat("x", 300), size: 8}), nil, 1002)
	add("1.1.11 not masked", one(frame{first: fin | 1, body: "bare", bare: true}), nil, 1002)

	add("2.1 ping without payload", one(ping("")), []string{"p:"}, 0)
	add("2.2 ping with text", one(ping("Hello, world!")), []string{"p:Hello, world!"}, 0)
	add("2.3 ping with bytes that are no UTF-8", one(ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff")), []string{"p:\x00\xff\xfe\xfd\xfc\xfb\x00\xff"}, 0)
	add("2.4 ping of 125", one(ping(strings.Repeat("\xfe", 125))), []string{"p:" + strings.Repeat("\xfe", 125)}, 0)
	add("2.5 ping of 126", one(ping(strings.Repeat("\xfe", 126))), nil, 1002)
	add("2.7 unasked pong", one(pong("")), nil, 0)
	add("2.8 unasked pong with payload", one(pong("unsolicited")), nil, 0)
	add("2.9 unasked pong, then ping", one(pong("unsolicited"), ping("asked")), []string{"p:asked"}, 0)
	add("2.10 ten pings", repeat(10, ping("x")), strs(10, "p:x"), 0)

	add("3.1 RSV 1 on empty text", one(frame{first: fin | 0x10 | 1}), nil, 1002)
	add("3.2 text, RSV 2 on text, ping", one(text("first"), frame{first: fin | 0x20 | 1, body: "second"}, ping("")), []string{"t:first"}, 1002)
	add("3.3 RSV 3", one(text("first"), frame{first: fin | 0x30 | 1, body: "second"}), []string{"t:first"}, 1002)
	add("3.4 RSV 4", one(text("first"), frame{first: fin | 0x40 | 1, body: "second"}), []string{"t:first"}, 1002)
	add("3.5 RSV 5 on binary", one(frame{first: fin | 0x50 | 2, body: "\x00\xff"}), nil, 1002)
	add("3.6 RSV 6 on ping", one(frame{first: fin | 0x60 | 9, body: "x"}), nil, 1002)
	add("3.7 RSV 7 on close", one(frame{first: fin | 0x70 | 8}), nil, 1002)

	for i, op := range []byte{3, 4, 5, 6, 7} {
		add(fmt.Sprintf("4.1.%d opcode %d", i+1, op), one(text("first"), frame{first: fin | op, body: "x"}, ping("")), []string{"t:first"}, 1002)
	}
	for i, op := range []byte{11, 12, 13, 14, 15} {
		add(fmt.Sprintf("4.2.%d opcode %d", i+1, op), one(text("first"), frame{first: fin | op, body: "x"}, ping("")), []string{"t:first"}, 1002)
	}

	add("5.1 fragmented ping", one(part(9, "a"), rest("b")), nil, 1002)
	add("5.2 fragmented pong", one(part(10, "a"), rest("b")), nil, 1002)
	add("5.3 text in two", one(part(1, "fragment1"), rest("fragment2")), []string{"t:fragment1fragment2"}, 0)
	add("5.6 ping inside a message", one(part(1, "fragment1"), ping("ping"), rest("fragment2")), []string{"p:ping", "t:fragment1fragment2"}, 0)
	add("5.9 continuation first", one(rest("x"), text("y")), nil, 1002)
	add("5.10 continuation with nothing to continue", one(text("first"), rest("x")), []string{"t:first"}, 1002)
	add("5.12 unfinished continuation first", one(part(0, "x"), text("y")), nil, 1002)
	add("5.15 continuation after a message's end", one(part(1, "1"), rest("2"), part(0, "3"), text("4")), []string{"t:12"}, 1002)
	add("5.16 continuations that begin nothing", one(part(0, "1"), part(1, "2"), rest("3")), nil, 1002)
	add("5.18 text inside a text", one(part(1, "1"), text("2")), nil, 1002)
	add("5.19 pings between five fragments", one(part(1, "1"), part(0, "2"), ping("a"), part(0, "3"), part(0, "4"), ping("b"), rest("5")), []string{"p:a", "p:b", "t:12345"}, 0)

	add("6.1.1 empty text", one(text("")), []string{"t:"}, 0)
	add("6.1.2 empty text in three", one(part(1, ""), part(0, ""), rest("")), []string{"t:"}, 0)
	add("6.1.3 text between empty fragments", one(part(1, ""), part(0, "middle"), rest("")), []string{"t:middle"}, 0)
	add("6.2.1 UTF-8 whole", one(text(utf)), []string{"t:" + utf}, 0)
	add("6.2.2 UTF-8 in two", one(part(1, utf[:8]), rest(utf[8:])), []string{"t:" + utf}, 0)
	add("6.2.3 UTF-8 by byte", each(1, utf), []string{"t:" + utf}, 0)
	add("6.2.4 Greek by byte", each(1, "κόσμε"), []string{"t:κόσμε"}, 0)
	add("6.3.1 invalid whole", one(text("κόσμε\xed\xa0\x80edited")), nil, 1007)
	add("6.3.2 invalid by byte", each(1, "κόσμε\xed\xa0\x80edited"), nil, 1007)
	add("6.4.1 invalid in the second of three", one(part(1, "κόσμε"), part(0, "\xf4\x90\x80\x80"), rest("edited")), nil, 1007)
	add("6.4.2 invalid begins at a fragment's end", one(part(1, "κόσμε\xf4"), part(0, "\x90"), rest("")), nil, 1007)
	for i, s := range []string{"\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\U0001fffe", "\U0010fffe", "\x00"} {
		add(fmt.Sprintf("6.5-6.9, 6.22 valid %d", i), one(text(s)), []string{"t:" + s}, 0)
		add(fmt.Sprintf("6.5-6.9, 6.22 valid %d by byte", i), each(1, s), []string{"t:" + s}, 0)
	}
	for i, s := range []string{
		"\xce", "\xce\xba\xe1", "\xce\xba\xe1\xbd", "\xf0\x90\x80", // cut short
		"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xf4\x90\x80\x80", // too long, too high
		"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80\xbf\x80\xbf", // continuations alone
		"\xc0\x20", "\xdf ", "\xe0 ", "\xef\xbf ", "\xf0 ", "\xf7 ", "\xfe", "\xff", "\xfe\xfe\xff\xff", // starts alone, never bytes
		"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xc0\x80", "\xe0\x80\x80", // overlong
		"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80", // surrogates
	} {
		add(fmt.Sprintf("6.10-6.21 invalid %d", i), one(text(s)), nil, 1007)
		add(fmt.Sprintf("6.10-6.21 invalid %d by byte", i), each(1, s), nil, 1007)
	}
	add("6.23 binary need not be UTF-8", one(binaryF("\xff\xfe\x80")), []string{"b:\xff\xfe\x80"}, 0)

	add("7.1.1 text, close", one(text("Hello World!"), closing(1000, "")), []string{"t:Hello World!"}, 1000)
	add("7.1.2 two closes", one(closing(1000, ""), closing(1000, "")), nil, 1000)
	add("7.1.3 ping after close", one(closing(1000, ""), ping("")), nil, 1000)
	add("7.1.4 text after close", one(closing(1000, ""), text("late")), nil, 1000)
	add("7.1.5 close inside a message", one(part(1, "fragment1"), closing(1000, ""), rest("fragment2")), nil, 1000)
	add("7.3.1 close without payload", one(frame{first: fin | 8}), nil, ws.StatusNoStatus)
	add("7.3.2 close of one byte", one(frame{first: fin | 8, body: "x"}), nil, 1002)
	add("7.3.3 close with a code", one(closing(1000, "")), nil, 1000)
	add("7.3.4 close with a reason", one(closing(1000, "Hello World!")), nil, 1000)
	add("7.3.5 close with the longest reason", one(closing(1000, strings.Repeat("*", 123))), nil, 1000)
	add("7.3.6 close with a longer one", one(closing(1000, strings.Repeat("*", 124))), nil, 1002)
	add("7.5.1 reason that is no UTF-8", one(closing(1000, "κόσμε\xed\xa0\x80edited")), nil, 1007)
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		add(fmt.Sprintf("7.7 close %d", code), one(closing(code, "")), nil, code)
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(fmt.Sprintf("7.9, 7.13 close %d", code), one(closing(code, "")), nil, 1002)
	}

	for i, n := range []int{64 << 10, 256 << 10, most} {
		body := strings.Repeat("k", n)
		add(fmt.Sprintf("9.1.%d text of %d", i+1, n), one(text(body)), []string{"t:" + body}, 0)
		add(fmt.Sprintf("9.2.%d binary of %d", i+1, n), one(binaryF(body)), []string{"b:" + body}, 0)
	}
	fragments := one(part(2, ""))
	for range 64 {
		fragments = append(fragments, part(0, strings.Repeat("f", 1024)))
	}
	add("9.4 binary in 64 fragments", append(fragments, rest("")), []string{"b:" + strings.Repeat("f", 64<<10)}, 0)
	add("9.9 over the limit", one(text(strings.Repeat("k", most+1))), nil, 1009)
	add("9.9 over the limit in fragments", one(part(2, strings.Repeat("k", most)), part(0, "k")), nil, 1009)
	add("10.1 64 KiB in pieces of 1300", func() []frame {
		list := []frame{part(1, strings.Repeat("*", 1300))}
		for range 49 {
			list = append(list, part(0, strings.Repeat("*", 1300)))
		}
		return append(list, rest(strings.Repeat("*", 536)))
	}(), []string{"t:" + strings.Repeat("*", 65536)}, 0)
	return all
}

// echo is the server under test: what a gateway does with the codec.
type echo struct {
	parser ws.Parser
	pool   ws.Buffers
	out    []byte
	code   int // closed with it
}

func (e *echo) take(b []byte) {
	for len(b) > 0 && e.code == 0 {
		m, n, err := e.parser.Next(b, most, &e.pool)
		b = b[n:]
		if failed, ok := errors.AsType[*ws.Error](err); ok {
			e.code = failed.Status
			e.out = ws.AppendClose(e.out, failed.Status, failed.Detail)
			return
		}
		switch m.Op {
		case ws.Text, ws.Binary:
			e.out = ws.AppendFrame(e.out, m.Op, m.Payload)
		case ws.Ping:
			e.out = ws.AppendFrame(e.out, ws.Pong, m.Payload)
		case ws.Close:
			e.code, _, _ = ws.ParseClose(m.Payload)
			e.out = ws.AppendClose(e.out, e.code, "")
		}
	}
}

// answer reads a server's frames as a strict client does.
func answer(t *testing.T, b []byte) (got []string, code int) {
	t.Helper()
	for len(b) > 0 {
		if b[0]&0xf0 != fin || b[1]&0x80 != 0 {
			t.Fatalf("a server's frame begins with %x", b[:2])
		}
		op, n := b[0]&0xf, int(b[1])
		b = b[2:]
		switch n {
		case 126:
			n, b = int(binary.BigEndian.Uint16(b)), b[2:]
		case 127:
			n, b = int(binary.BigEndian.Uint64(b)), b[8:]
		}
		body := string(b[:n])
		b = b[n:]
		switch op {
		case 8:
			code = ws.StatusNoStatus
			if n > 0 {
				code = int(binary.BigEndian.Uint16([]byte(body)))
			}
			if len(b) > 0 {
				t.Fatal("frames after the close frame")
			}
		default:
			got = append(got, map[byte]string{1: "t:", 2: "b:", 10: "p:"}[op]+body)
		}
	}
	return got, code
}

func (c *conformance) check(t *testing.T, got []string, code int) {
	t.Helper()
	if code != c.code {
		t.Errorf("closed with %d, want %d", code, c.code)
	}
	if len(got) != len(c.want) {
		t.Fatalf("%d answers, want %d: %.100q", len(got), len(c.want), got)
	}
	for i := range got {
		if got[i] != c.want[i] {
			t.Errorf("answer %d is %.60q, want %.60q", i, got[i], c.want[i])
		}
	}
}

// However the bytes are cut, and whoever takes the stream up in the middle, the answer is the same.
func TestConformanceInPieces(t *testing.T) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			var stream []byte
			for _, f := range c.send {
				stream = append(stream, f.bytes()...)
			}
			for _, size := range []int{1, 2, 3, 7, 127, 1 << 22} {
				for _, moved := range []bool{false, true} {
					if size < 127 && len(stream) > 4096 || moved && len(stream) > 1<<17 && size < 1<<22 {
						continue
					}
					e := &echo{}
					for b := bytes.Clone(stream); len(b) > 0; b = b[min(size, len(b)):] {
						e.take(b[:min(size, len(b))])
						if moved {
							state := e.parser.State(&e.pool)
							e.parser.Release(&e.pool)
							e.parser = ws.Restore(state, &e.pool)
						}
					}
					got, code := answer(t, e.out)
					c.check(t, got, code)
				}
			}
		})
	}
}

// The same over a real socket, with an independent client at the other end.
func TestConformanceWithPeer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := websocket.Upgrader{}
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		conn := c.NetConn()
		defer conn.Close()
		e := &echo{}
		for b := make([]byte, 16<<10); e.code == 0; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			e.take(b[:n])
			if _, err := conn.Write(e.out); err != nil {
				return
			}
			e.out = e.out[:0]
		}
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.Copy(io.Discard, conn) // a socket closed with unread bytes is reset, which may overtake the close frame
	}))
	t.Cleanup(server.Close)
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := websocket.Dialer{HandshakeTimeout: 30 * time.Second}
			peer, _, err := d.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			var got []string
			code := 0
			peer.SetPongHandler(func(s string) error { got = append(got, "p:"+s); return nil })
			peer.SetCloseHandler(func(c int, _ string) error { code = c; return nil })
			go func() {
				for _, f := range c.send {
					if _, err := peer.NetConn().Write(f.bytes()); err != nil {
						return
					}
				}
				if c.code == 0 { // so that the reader comes to an end
					_, _ = peer.NetConn().Write(closing(4999, "").bytes())
				}
			}()
			peer.SetReadDeadline(time.Now().Add(30 * time.Second))
			for {
				typ, body, err := peer.ReadMessage()
				if err != nil {
					break
				}
				got = append(got, map[int]string{1: "t:", 2: "b:"}[typ]+string(body))
			}
			if c.code == 0 && code == 4999 {
				code = 0
			}
			c.check(t, got, code)
		})
	}
}

func TestCloseReasonIsCutBetweenRunes(t *testing.T) {
	b := ws.AppendClose(nil, 1000, strings.Repeat("ä", 100))
	_, reason, err := ws.ParseClose(b[2:])
	if err != nil || reason != strings.Repeat("ä", 61) {
		t.Fatalf("%q, %v", reason, err)
	}
}

// FuzzParser checks that no stream makes the parser panic, and that how it is cut changes nothing.
func FuzzParser(f *testing.F) {
	for _, c := range cases() {
		var stream []byte
		for _, fr := range c.send {
			stream = append(stream, fr.bytes()...)
		}
		if len(stream) < 1024 {
			f.Add(stream, uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		whole, cut := &echo{}, &echo{}
		whole.take(bytes.Clone(stream))
		for b := bytes.Clone(stream); len(b) > 0; {
			n := min(int(size)+1, len(b))
			cut.take(b[:n])
			state := cut.parser.State(&cut.pool)
			cut.parser.Release(&cut.pool)
			cut.parser = ws.Restore(state, &cut.pool)
			b = b[n:]
		}
		if whole.code != cut.code || !bytes.Equal(whole.out, cut.out) {
			t.Fatalf("whole: %d %q, cut: %d %q", whole.code, whole.out, cut.code, cut.out)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{16, 300, 4096} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			stream := binaryF(strings.Repeat("x", n)).bytes()
			buf := make([]byte, len(stream))
			var p ws.Parser
			var pool ws.Buffers
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				copy(buf, stream)
				if m, _, err := p.Next(buf, most, &pool); err != nil || len(m.Payload) != n {
					b.Fatal(m, err)
				}
			}
		})
	}
}
