package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// beside is a gateway with clients that read and clients that do not, whose sockets are full.
type beside struct {
	r          *rig
	good, deaf []uint64
	came       chan time.Time // of each push at each client that reads
	body       []byte
}

func newBeside(t testing.TB, good, deaf int) *beside {
	b := &beside{came: make(chan time.Time, good)}
	b.r = newRig(t, func(c *Config) {
		c.WriteTimeout, c.SlowTimeout = 10*time.Minute, 10*time.Minute
		c.SendBuffer = 32 << 10 // soon full
	})
	var err error
	if b.body, err = wire.Marshal(&wire.Event{From: strings.Repeat("x", 4_000)}); err != nil {
		t.Fatal(err)
	}
	for i := range deaf {
		b.r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("deaf", i)), 1)
		b.deaf = append(b.deaf, b.r.routers.last().Conn)
	}
	for i := range good {
		p, _ := b.r.login(wire.SubprotocolProtobuf, im.UID(fmt.Sprint("good", i)), 1)
		b.good = append(b.good, b.r.routers.last().Conn)
		go func() {
			for {
				p.ws.SetReadDeadline(time.Now().Add(10 * time.Minute))
				_, frame, err := p.ws.ReadMessage()
				if err != nil {
					return
				}
				b.came <- time.Now()
				f, err := p.codec.Decode(frame)
				if err != nil || f.GetPush() == nil {
					continue
				}
				if ack, err := p.codec.Encode(wire.FrameOf(&wire.PushAck{Number: f.GetPush().Number})); err == nil {
					_ = p.ws.WriteMessage(p.codec.MessageType(), ack)
				}
			}
		}()
	}
	eventually(t, "the sockets of those who do not read are full", func() bool {
		b.push(b.deaf)
		full := 0
		for _, c := range b.r.g.conns.all() {
			if c.blocked.Load() > 0 {
				full++
			}
		}
		return full == deaf
	})
	return b
}

func (b *beside) push(conns []uint64) {
	b.r.routers.toGateway().Push([]im.Push{{Conns: conns, Service: "im", Method: "event", Body: b.body}})
}

// measure pushes in turn to those who read alone, and to all, and returns how long each push took to each who reads.
func (b *beside) measure(t testing.TB, rounds int) (alone, together []time.Duration) {
	all := append(append([]uint64{}, b.deaf...), b.good...)
	deadline := time.After(4 * time.Minute)
	for i := range 2 * rounds {
		conns, into := b.good, &alone
		if i%2 == 1 {
			conns, into = all, &together
		}
		began := time.Now()
		b.push(conns)
		for range b.good {
			select {
			case at := <-b.came:
				*into = append(*into, at.Sub(began))
			case <-deadline:
				t.Fatal("a push does not come")
			}
		}
	}
	slices.Sort(alone)
	slices.Sort(together)
	return alone, together
}

func share(sorted []time.Duration, part float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(part*float64(len(sorted))))]
}

// Clients that take nothing do not delay those that do: a push that goes to both takes no longer to those who read than one
// that goes to them alone, as far as the same busy machine can tell.
func TestSlowClientsDelayNobody(t *testing.T) {
	alone, together := newBeside(t, 20, 20).measure(t, 100)
	a, b := share(alone, .99), share(together, .99)
	t.Logf("p99 of a push: %v among those who read, %v beside as many who do not: %.2f times", a, b, float64(b)/float64(a))
	if b > 10*a+time.Second { // a gateway that waits for one socket waits for its write timeout
		t.Errorf("p99 of a push is %v beside slow clients, and %v without", b, a)
	}
}

// BenchmarkSlowClients tells what five hundred clients that read nothing cost a hundred that do.
func BenchmarkSlowClients(b *testing.B) {
	for b.Loop() {
		alone, together := newBeside(b, 100, 500).measure(b, 300)
		b.ReportMetric(float64(share(alone, .99).Microseconds()), "us-alone-p99")
		b.ReportMetric(float64(share(together, .99).Microseconds()), "us-beside-p99")
		b.ReportMetric(float64(share(together, .99))/float64(share(alone, .99)), "times")
	}
}

// Of receipts that wait for a client, only those remain that tell something.
func TestReceiptsAreCoalesced(t *testing.T) {
	cfg := Config{MaxUnacked: 100, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Second}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
	receipt := func(uid, read string) *wire.PreparedPush {
		body, err := wire.Marshal(&wire.Event{From: "eu", Event: &wire.EventReceipt{Receipt: &wire.Receipt{Conversation: "d:ann:bob", Uid: uid, Read: read}}})
		if err != nil {
			t.Fatal(err)
		}
		return wire.PreparePush("im", "event", body, "")
	}
	c := &conn{flusher: newFlusher()}
	if err := s.attach(c, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.push(receipt("bob", "eu=1"), now, false)
	s.next(c, make([]numberedPush, 0, 1)) // the first was sent
	s.push(receipt("bob", "eu=2"), now, false)
	s.push(receipt("cat", "eu=2"), now, false)
	s.push(wire.PreparePush("im", "event", nil, ""), now, false)
	s.push(receipt("bob", "eu=3"), now, false)      // instead of eu=2
	s.push(receipt("bob", "us=1"), now, false)      // covers nothing
	s.push(receipt("bob", "eu=2,us=2"), now, false) // covers us=1 only
	var got []string
	for _, p := range s.unacked {
		_, _, body, _ := p.push.Parts()
		var e wire.Event
		if err := wire.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(p.number, e.GetReceipt().GetUid(), e.GetReceipt().GetRead()))
	}
	want := "[1bobeu=1 2bobeu=3 3cateu=2 4 5bobeu=2,us=2]"
	if fmt.Sprint(got) != want {
		t.Errorf("waiting are %v, want %v", got, want)
	}
	size := 0
	for _, p := range s.unacked {
		size += p.push.Size()
	}
	if s.bytes != size || s.number != 5 {
		t.Errorf("counts %d bytes up to %d, are %d", s.bytes, s.number, size)
	}
}

// What tells who types has no number and is kept by nobody: of what waits the last of each user is sent, behind all pushes; not
// to a client that is behind or has no socket, and not when it is old.
func TestTypingIsEphemeral(t *testing.T) {
	cfg := Config{MaxUnacked: 3, MaxUnackedBytes: 1 << 20, SlowTimeout: time.Hour}
	s := newSession(&cfg, randomText, "ann", &wire.Hello{Device: "d", Platform: "ios", Login: 1}, 1)
	now := time.Now()
	typing := func(conversation im.Conversation, uid im.UID, stopped bool) bool {
		return s.pass(wire.PreparePush("im", "event", wire.EncodeTypingEvent(conversation, uid, stopped, "eu"), ""), now)
	}
	record := func() { s.push(wire.PreparePush("im", "event", nil, ""), now, false) }
	c := &conn{flusher: newFlusher()}
	read := func(pushes int) string {
		s.next(c, make([]numberedPush, 0, pushes))
		got := []string{}
		for _, p := range s.passed(c, now) {
			_, _, body, _ := p.push.Parts()
			var e wire.Event
			if err := wire.Unmarshal(body, &e); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(e.GetTyping().GetConversation(), " ", e.GetTyping().GetUid(), " ", e.GetTyping().GetStopped()))
		}
		return strings.Join(got, ", ")
	}
	expect := func(pushes int, want string) {
		t.Helper()
		if got := read(pushes); got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
	typing("d:ann:bob", "bob", false)
	if err := s.attach(c, 1, 0, nil); err != nil {
		t.Fatal(err)
	}
	expect(8, "") // there was no socket
	record()
	record()
	typing("d:ann:bob", "bob", false)
	typing("d:ann:cat", "cat", false)
	typing("d:ann:bob", "bob", true)
	expect(1, "") // one push is still to be sent
	expect(8, "d:ann:bob bob true, d:ann:cat cat false")
	expect(8, "")
	if s.number != 2 || s.bytes != 2*wire.PreparePush("im", "event", nil, "").Size() {
		t.Errorf("numbers go up to %d, %d bytes are kept", s.number, s.bytes)
	}

	typing("d:ann:bob", "bob", false)
	now = now.Add(passingAge + time.Second)
	expect(8, "") // it is old

	shed := 0
	for i := range maxPassing + 3 {
		if !typing("d:ann:bob", im.UID(fmt.Sprint("bob", i)), false) {
			shed++
		}
	}
	if shed != 3 || len(s.passing) != maxPassing {
		t.Errorf("%d were dropped, and %d wait", shed, len(s.passing))
	}
	for range cfg.MaxUnacked {
		record() // the client is behind: what is ephemeral goes first
	}
	if len(s.passing) != 0 || typing("d:ann:bob", "bob", false) {
		t.Errorf("a client that is behind has %d ephemeral pushes waiting", len(s.passing))
	}
	expect(8, "")
	typing("d:ann:bob", "bob", false)
	s.detach(c, now.Add(time.Hour))
	if len(s.passing) != 0 {
		t.Error("it waits for a socket")
	}
}

// Who types comes in a push without a number, by either subprotocol, and is not sent again on a resume.
func TestTypingOnTheWire(t *testing.T) {
	both(t, func(t *testing.T, subprotocol string) {
		r := newRig(t)
		p, w := r.login(subprotocol, "ann", 1)
		conn := r.routers.last().Conn
		r.routers.toGateway().Push([]im.Push{{
			Conns: []uint64{conn}, Service: "im", Method: "event", Body: wire.EncodeTypingEvent("d:ann:bob", "bob", false, "us"), Ephemeral: true,
		}})
		push := expect(p, (*wire.Frame).GetPush)
		var e wire.Event
		if err := wire.Unmarshal(push.Body, &e); err != nil {
			t.Fatal(err)
		}
		if push.Number != 0 || e.GetTyping().GetUid() != "bob" || e.From != "us" {
			t.Errorf("got push %d: %v", push.Number, &e)
		}
		r.push("first", conn)
		p.expectPush(1, "first")
		p.cut()
		p, _ = r.resume(subprotocol, "ann", 2, w, 0)
		p.expectPush(1, "first")
		p.expectAlive()
	})
}

// Whoever has read its welcome is there for what is sent only to those who are there.
func TestWelcomeIsThere(t *testing.T) {
	r := newRig(t)
	for i := range uint64(300) {
		p, _ := r.login("antipode.v1", im.UID(fmt.Sprint("ann", i)), 1)
		r.routers.toGateway().Push([]im.Push{{
			Conns: []uint64{r.routers.last().Conn}, Service: "im", Method: "event", Body: wire.EncodeTypingEvent("d:ann:bob", "bob", false, "us"), Ephemeral: true,
		}})
		if push := expect(p, (*wire.Frame).GetPush); push.Number != 0 {
			t.Fatalf("got push %d", push.Number)
		}
	}
}
